-- id, channel. Answers with the record's version and the position of the last entry that is for it; 0 where the session is over.
local id, name = ARGS[1], ARGS[2]
local key = session(id)
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'owner', 'version', 'm:' .. name)
if not known[1] or known[2] then return { 0, 0 } end
if again then return { UNKNOWN, '0' } end
if not known[5] then return { tonumber(known[4]), '0' } end
redis.call('HDEL', key, 'm:' .. name)
local to = num(redis.call('HGET', channel(name), 'last'))
-- What came while it was a member is still for it.
if to > tonumber(known[5]) then
  redis.call('HSET', key, 'l:' .. int(to) .. ':' .. name, known[5])
  local left = lefts(key)
  if #left > 100 then forget(key, left[1], 'count') end
end
exit(name)
local version = redis.call('HINCRBY', key, 'version', 1)
if known[3] ~= '' then tell(known[3], 'l ' .. id .. ' ' .. version .. ' ' .. int(to) .. ' ' .. name) end
return { version, int(to) }
