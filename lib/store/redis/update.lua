-- id, then name and JSON of each property; without JSON it goes. Answers with the new version; 0 where the session is over.
local id = ARGS[1]
local key = session(id)
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'owner', 'version')
if not known[1] or known[2] then return 0 end
if again then return UNKNOWN end
for i = 2, #ARGS, 2 do
  if ARGS[i + 1] == '' then redis.call('HDEL', key, 'd:' .. ARGS[i]) else redis.call('HSET', key, 'd:' .. ARGS[i], ARGS[i + 1]) end
end
local version = redis.call('HINCRBY', key, 'version', 1)
if known[3] ~= '' and known[3] ~= NODE then tell(known[3], 'u ' .. id .. ' ' .. version) end
return version
