-- ARGS: id, then name and JSON of each property; a property without JSON is removed. Returns the version of the session; 0 if it is closed.
local id = ARGS[1]
local key = session_key(id)
local record = redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version')
if not record[1] or record[2] then return 0 end
if is_retry then return UNKNOWN_VERSION end
for i = 2, #ARGS, 2 do
  if ARGS[i + 1] == '' then redis.call('HDEL', key, 'd:' .. ARGS[i]) else redis.call('HSET', key, 'd:' .. ARGS[i], ARGS[i + 1]) end
end
local version = redis.call('HINCRBY', key, 'version', 1)
if record[3] ~= '' and record[3] ~= NODE then notify(record[3], 'updated ' .. id .. ' ' .. version) end
return version
