-- ARGS: id, epoch of the stream that has ended or '', its cursor. This node has no stream of the session. Returns 1.
local id, epoch, cursor = ARGS[1], ARGS[2], tonumber(ARGS[3])
if is_retry then return 1 end
local key = session_key(id)
local record = redis.call('HMGET', key, 'epoch', 'principal', 'closeReason', 'owner')
if not record[1] then return 1 end
local is_current = record[1] == epoch
if not is_current and record[4] ~= '' and record[4] ~= NODE then return 1 end
redis.call('HSET', key, 'owner', '')
redis.call('HINCRBY', key, 'version', 1)
if not record[3] then set_deadline(id, record[2], RESUME_TIMEOUT) end
if not is_current then return 1 end
redis.call('HSET', key, 'cursor', cursor)
-- The ranges of left channels are kept as long as their entries, because the client may resume at an earlier position.
for _, range in ipairs(unread_ranges(key)) do
  local name = channel_key(range.name)
  if redis.call('EXISTS', name .. ':log') == 0 then drop_range(key, range, 'age')
  elseif num(redis.call('HGET', name, 'trimmed')) >= range.to then drop_range(key, range, redis.call('HGET', name, 'trimReason')) end
end
return 1
