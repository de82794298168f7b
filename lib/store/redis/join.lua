-- id, channel. Answers with the record's version and the position from which it is a member; 0 where the session is over.
local id, name = ARGS[1], ARGS[2]
local key = session(id)
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'owner', 'version', 'm:' .. name)
if not known[1] or known[2] then return { 0, 0 } end
if again then return { UNKNOWN, '0' } end
if known[5] then return { tonumber(known[4]), known[5] } end
redis.call('HSET', key, 'm:' .. name, pos)
-- Where nothing is known of what it had before, that is gone.
if redis.call('HINCRBY', channel(name), 'members', 1) == 1 and redis.call('HEXISTS', channel(name), 'last') == 0 then
  redis.call('HSET', channel(name), 'trimmed', pos, 'by', 'age')
end
redis.call('PEXPIRE', channel(name), TTL)
local version = redis.call('HINCRBY', key, 'version', 1)
if known[3] ~= '' then tell(known[3], 'j ' .. id .. ' ' .. version .. ' ' .. int(pos) .. ' ' .. name) end
return { version, int(pos) }
