-- id, epoch of the stream that is over, if there was one, and its cursor. There is none on this node, and none on its way.
local id, epoch, cursor = ARGS[1], ARGS[2], tonumber(ARGS[3])
if again then return 1 end
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
-- What it has left is kept as long as its client may ask for it again.
for _, left in ipairs(lefts(key)) do
  local name = channel(left.name)
  if redis.call('EXISTS', name .. ':log') == 0 then forget(key, left, 'age')
  elseif num(redis.call('HGET', name, 'trimmed')) >= left.to then forget(key, left, redis.call('HGET', name, 'by')) end
end
return 1
