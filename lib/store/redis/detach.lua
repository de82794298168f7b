-- id, epoch of the stream that is over, if there was one, and its cursor. There is none on this node, and none on its way.
local id, epoch, cursor = ARGV[ARGS + 1], ARGV[ARGS + 2], tonumber(ARGV[ARGS + 3])
enter()
local key = session(id)
local known = redis.call('HMGET', key, 'epoch', 'principal', 'endedBy', 'owner')
if not known[1] then return 0 end
local mine = known[1] == epoch
if not mine and known[4] ~= '' and known[4] ~= NODE then return 0 end
redis.call('HSET', key, 'owner', '')
redis.call('HINCRBY', key, 'version', 1)
if not known[3] then wait(id, known[2], RESUME) end
if not mine then return 1 end
redis.call('HSET', key, 'cursor', cursor)
-- What it has left and read to the end.
for _, field in ipairs(redis.call('HKEYS', key)) do
  local to = string.match(field, '^l:(%d+):')
  if to and tonumber(to) <= cursor then redis.call('HDEL', key, field) end
end
return 1
