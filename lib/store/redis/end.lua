-- id, reason, whether to keep it, and for one that has expired the deadline by which that was found. Answers 1 to the one
-- that ended it, and with the record of one that has expired.
local id, reason, kept, deadline = ARGS[1], ARGS[2], ARGS[3] == '1', ARGS[4]
local key = session(id)
-- It was held in the meantime.
if deadline ~= '' and redis.call('ZSCORE', P .. ':deadlines', id) ~= deadline then return { 0 } end
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'principal', 'owner', 'ender')
if not known[1] then
  redis.call('ZREM', P .. ':deadlines', id)
  return { 0 }
end
local ender = NODE .. ':' .. OP
if known[2] then return { known[5] == ender and 1 or 0 } end
local record = deadline == '' and {} or redis.call('HGETALL', key)
-- It leaves its channels. What came before is still for it.
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 2) == 'm:' then
    local name = string.sub(field, 3)
    local from, to = redis.call('HGET', key, field), num(redis.call('HGET', channel(name), 'last'))
    if to > tonumber(from) then redis.call('HSET', key, 'l:' .. int(to) .. ':' .. name, from) end
    redis.call('HDEL', key, field)
    exit(name)
  end
end
redis.call('ZREM', P .. ':deadlines', id)
if known[3] then redis.call('ZREM', P .. ':p:' .. known[3], id) end
local text = 'e ' .. id .. ' ' .. int(pos) .. ' ' .. reason
if known[4] ~= '' then tell(known[4], text) end
announce(text)
if kept then
  redis.call('HSET', key, 'endedBy', reason, 'endedAt', num(redis.call('HGET', P .. ':b', 'last')), 'ender', ender)
  redis.call('HINCRBY', key, 'version', 1)
  keep(key, math.max(RESUME, 1000))
else
  each(key, function (part) redis.call('UNLINK', part) end)
end
return { 1, record }
