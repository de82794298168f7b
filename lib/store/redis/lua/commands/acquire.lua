-- Makes this node the owner of a session's stream.
-- ARGS: token, id, cursor, the earliest and the latest time at which the request may have arrived.
-- Returns a marked reply with one of these values:
--   the log after the cursor, whose sixth value is the record of the session
--   false: there is no such session
--   `outdated`: another node has the stream for a newer request, or has had it since this command was executed first
local nodes, retention = require('nodes'), require('retention')
local token, id, cursor, earliest, latest = ARGS[1], ARGS[2], math.min(tonumber(ARGS[3]), position), tonumber(ARGS[4]), tonumber(ARGS[5])
local key = session_key(id)
local owner, close_reason, principal, start_position, node_ids, requested_at, requested_until, earlier_epoch = unpack(redis.call('HMGET', key, 'owner', 'closeReason', 'principal', 'startPosition', 'nodes', 'requestedAt', 'requestedUntil', 'epoch'))
if not start_position then return marked_reply(token, false) end
-- The clock of Redis was set back since, for example in a failover, so the times cannot be compared.
if to_number(requested_at) > NOW then requested_at = nil end
if is_retry and owner ~= NODE_ID or owner ~= '' and owner ~= NODE_ID and to_number(requested_at) > latest then return marked_reply(token, 'outdated') end
if not is_retry then
  -- A time, because a number might be that of an epoch that Redis has lost.
  local epoch = format_integer(math.max(tonumber(earlier_epoch) + 1, NOW))
  -- The clocks cannot tell which request is newer if the times overlap.
  local is_newer = to_number(requested_until) < earliest and '1' or '0'
  redis.call('HINCRBY', key, 'version', 1)
  redis.call('HSET', key, 'epoch', epoch, 'owner', NODE_ID, 'requestedAt', math.max(to_number(requested_at), earliest), 'requestedUntil', latest, 'isNewer', is_newer)
  nodes.add_self(key, node_ids)
  if owner ~= '' and owner ~= NODE_ID then notify(owner, 'replaced ' .. id .. ' ' .. epoch .. ' ' .. is_newer) end
end
if not close_reason then
  retention.set_deadline(id, principal, retention.STREAM_TIMEOUT)
  retention.set_ttl(key, $TTL)
end
local log = require('read_log')(key, cursor, math.huge, $READ_BYTES)
log[6] = read_record(key)
return marked_reply(token, log)
