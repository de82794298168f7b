-- ARGS: id, channel. Returns the new version of the session; the negative version if there was
-- nothing to change; UNKNOWN_VERSION for a retry; 0 if it is closed.
local id, name = ARGS[1], ARGS[2]
local key = session_key(id)
local record = redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'm:' .. name)
if not record[1] or record[2] then return 0 end
if is_retry then return UNKNOWN_VERSION end
if not record[5] then return -tonumber(record[4]) end
redis.call('HDEL', key, 'm:' .. name)
local to = num(redis.call('HGET', channel_key(name), 'last'))
-- It still reads what was appended while it was a member.
if to > tonumber(record[5]) then
  redis.call('HSET', key, 'l:' .. int(to) .. ':' .. name, record[5])
  local ranges = unread_ranges(key)
  if #ranges > 100 then drop_range(key, ranges[1], 'count') end
end
remove_member(name)
local version = redis.call('HINCRBY', key, 'version', 1)
if record[3] ~= '' then notify(record[3], 'left ' .. id .. ' ' .. version .. ' ' .. int(to) .. ' ' .. name) end
return version
