-- Closes a session.
-- ARGS:
--   id
--   reason
--   whether to keep the session
--   for an expired session the deadline that has passed, otherwise ''
--   time in milliseconds since 1970 at which the client must not be authorized any more, or ''
--   the id of the call (see modules/calls.lua), unless the session has expired or is closed again after a rollback
-- Returns 1 to the one command that has closed the session, otherwise 0; the record of an expired session; and as JSON the channels
-- that the session was in, each with the position of its newest entry. They are also the result of the call.
local calls, channels, logs, retention = require('calls'), require('channels'), require('logs'), require('retention')
local id, reason, keep, deadline, call_id = ARGS[1], ARGS[2], ARGS[3] == '1', ARGS[4], ARGS[6]
local key = session_key(id)
if is_retry and call_id then
  local result = calls.find(call_id)
  return { result and 1 or 0, {}, result }
end
-- The sessions that have expired and whose onClose hooks have not run yet, each with the time at which a node has to check that. The
-- record of such a session is moved to the second key until `ack_expiry`.
local unacked_expiries, expired_key = KEY_PREFIX .. ':unacked_expiries', KEY_PREFIX .. ':e:' .. id
if deadline ~= '' then
  if redis.call('ZSCORE', unacked_expiries, id) == deadline then redis.call('HSET', expired_key, 'closedBy', NODE_ID) end
  if redis.call('HGET', expired_key, 'closedBy') == NODE_ID then return { 1, read_record(expired_key) } end
  -- The deadline was changed meanwhile.
  if redis.call('ZSCORE', KEY_PREFIX .. ':deadlines', id) ~= deadline then return { 0 } end
end
local start_position, close_reason, principal, nodes, owner, authorized_until = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'principal', 'nodes', 'owner', 'authorizedUntil'))
if not start_position then redis.call('ZREM', KEY_PREFIX .. ':deadlines', id) end
if not start_position or close_reason then return { 0 } end
if to_number(authorized_until) > (tonumber(ARGS[5]) or math.huge) then return { 0 } end
-- The session leaves its channels, but still reads what was appended before.
local version, left = redis.call('HINCRBY', key, 'version', 1), {}
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 2) == 'm:' then
    local name = string.sub(field, 3)
    local from, to = redis.call('HGET', key, field), to_number(redis.call('HGET', channel_key(name), 'last'))
    if to > tonumber(from) then redis.call('HSET', key, 'l:' .. format_integer(to) .. ':' .. name, from) end
    redis.call('HDEL', key, field)
    channels.remove_member(name, id)
    left[#left + 1] = { name, format_integer(to) }
  end
end
local left_json = #left > 0 and cjson.encode(left) or '[]'
redis.call('HSET', key, 'left', left_json)
if call_id then calls.record(call_id, left_json) end
-- Ranges end at the last entry, because the stream would report a trim of later entries as a loss.
local broadcast_position = to_number(redis.call('HGET', logs.key('broadcasts'), 'last'))
if owner ~= '' and #left > 0 then notify(owner, 'left_all ' .. id .. ' ' .. version .. ' ' .. left_json) end
redis.call('ZREM', KEY_PREFIX .. ':deadlines', id)
if principal then redis.call('ZREM', KEY_PREFIX .. ':p:' .. principal, id) end
for node in string.gmatch(nodes or '', '[^,]+') do notify(node, 'closed ' .. id .. ' ' .. format_integer(broadcast_position) .. ' ' .. reason) end
if keep then
  -- A node that has received `left_all`, but not `closed`, must find a newer version.
  redis.call('HINCRBY', key, 'version', 1)
  redis.call('HSET', key, 'closeReason', reason, 'broadcastEndPosition', broadcast_position)
  retention.set_ttl(key, math.max($RESUME_TIMEOUT, 1000), true)
  -- Nothing is appended any more, and no message is handled.
  redis.call('UNLINK', key .. ':latest', key .. ':records', key .. ':record_order', key .. ':queue')
  return { 1, {}, left_json }
end
if deadline ~= '' then
  -- A new position, so that every node can detect a rollback that has lost the expiry, before the session expires again.
  logs.next_position()
  redis.call('HSET', key, 'closeReason', reason, 'closedBy', NODE_ID)
  redis.call('RENAME', key, expired_key)
  redis.call('ZADD', unacked_expiries, lease_clock + $LEASE, id)
  redis.call('PEXPIRE', unacked_expiries, $TTL)
end
redis.call('UNLINK', key, key .. ':log', key .. ':latest', key .. ':records', key .. ':record_order', key .. ':queue')
return { 1, read_record(expired_key), left_json }
