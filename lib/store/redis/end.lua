-- id, reason, whether to keep it, and for one that has expired the deadline by which that was found. Answers 1 to the one
-- that ended it, and with the record of one that has expired.
local id, reason, kept, deadline = ARGS[1], ARGS[2], ARGS[3] == '1', ARGS[4]
local key = session(id)
local ender = NODE .. ':' .. OP
-- One that has expired is kept aside for the one that is to tell the app, or, where that dies, for another.
local expired, aside = P .. ':expired', P .. ':e:' .. id
if deadline ~= '' then
  if redis.call('ZSCORE', expired, id) == deadline then redis.call('HSET', aside, 'ender', ender) end
  if redis.call('HGET', aside, 'ender') == ender then return { 1, redis.call('HGETALL', aside) } end
  -- It was held in the meantime.
  if redis.call('ZSCORE', P .. ':deadlines', id) ~= deadline then return { 0 } end
end
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'principal', 'owner', 'ender')
if not known[1] then
  redis.call('ZREM', P .. ':deadlines', id)
  -- One that was not to be kept is gone since this was asked for first.
  return { again and not kept and 1 or 0 }
end
if known[2] then return { known[5] == ender and 1 or 0 } end
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
  return { 1 }
end
if deadline ~= '' then
  redis.call('HSET', key, 'ender', ender)
  redis.call('RENAME', key, aside)
  redis.call('ZADD', expired, clock + LEASE, id)
  redis.call('PEXPIRE', expired, TTL)
end
each(key, function (part) redis.call('UNLINK', part) end)
return { 1, redis.call('HGETALL', aside) }
