-- id, then name and JSON of each property; without JSON it goes. Answers with the new version; 0 where the session is over.
local id = ARGV[ARGS + 1]
enter()
local key = session(id)
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'owner', 'version')
if not known[1] or known[2] then return 0 end
if again then return tonumber(known[4]) end
for i = ARGS + 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', key, 'd:' .. ARGV[i]) else redis.call('HSET', key, 'd:' .. ARGV[i], ARGV[i + 1]) end
end
local version = redis.call('HINCRBY', key, 'version', 1)
if known[3] ~= '' and known[3] ~= NODE then tell(known[3], 'u ' .. id .. ' ' .. version) end
return version
