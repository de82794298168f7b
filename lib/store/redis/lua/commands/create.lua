-- ARGS: id, whether there is a principal, the principal, the id of the call (see modules/calls.lua). Returns the start position; -1 if there are too many sessions. The
-- start position is also the result of the call.
local calls, retention = require('calls'), require('retention')
local id, principal = ARGS[1], ARGS[2] == '1' and ARGS[3]
local key = session_key(id)
-- The session may have been removed since, so a retry must not create it again.
if is_retry then return calls.find(ARGS[4]) or '-1' end
if redis.call('ZCARD', KEY_PREFIX .. ':deadlines') >= $MAX_SESSIONS then return -1 end
if principal then
  local others = KEY_PREFIX .. ':p:' .. principal
  -- Removes sessions that were never closed, for example because Redis has evicted them.
  redis.call('ZREMRANGEBYSCORE', others, '-inf', lease_clock - $RESUME_TIMEOUT - 60000)
  if redis.call('ZCARD', others) >= $MAX_SESSIONS_PER_PRINCIPAL then return -1 end
  redis.call('HSET', key, 'principal', principal)
end
redis.call('HSET', key, 'startPosition', position, 'cursor', position, 'version', 1, 'epoch', 0, 'owner', '', 'nodes', NODE_ID .. ',')
redis.call('PEXPIRE', key, $TTL)
retention.set_deadline(id, principal, retention.OPENING_TIMEOUT)
if principal then redis.call('PEXPIRE', KEY_PREFIX .. ':p:' .. principal, $TTL) end
calls.record(ARGS[4], format_integer(position))
return format_integer(position)
