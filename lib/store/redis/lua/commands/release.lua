-- ARGS: id, epoch of the stream that has ended or '', its cursor. This node has no stream of the session. Returns 1.
local channels, retention = require('channels'), require('retention')
local id, epoch, cursor = ARGS[1], ARGS[2], tonumber(ARGS[3])
if is_retry then return 1 end
local key = session_key(id)
local current_epoch, principal, close_reason, owner = unpack(redis.call('HMGET', key, 'epoch', 'principal', 'closeReason', 'owner'))
if not current_epoch then return 1 end
local is_current = current_epoch == epoch
if not is_current and owner ~= '' and owner ~= NODE_ID then return 1 end
redis.call('HSET', key, 'owner', '')
redis.call('HINCRBY', key, 'version', 1)
if not close_reason then retention.set_deadline(id, principal, $RESUME_TIMEOUT) end
if not is_current then return 1 end
redis.call('HSET', key, 'cursor', cursor)
-- The ranges of left channels are kept as long as their entries, because the client may resume at an earlier position.
for _, range in ipairs(channels.unread_ranges(key)) do
  local name = channel_key(range.name)
  if redis.call('EXISTS', name .. ':log') == 0 then channels.drop_range(key, range, 'age')
  elseif to_number(redis.call('HGET', name, 'trimmed')) >= range.to then channels.drop_range(key, range, redis.call('HGET', name, 'trimReason')) end
end
return 1
