-- id, channel. Answers with the record's version and the position of the last entry that is for it; 0 where the session is over.
local id, name = ARGV[ARGS + 1], ARGV[ARGS + 2]
enter()
local key = session(id)
local known = redis.call('HMGET', key, 'openedAt', 'endedBy', 'owner', 'version', 'm:' .. name)
if not known[1] or known[2] then return { 0, 0 } end
if not known[5] then return { tonumber(known[4]), '0' } end
redis.call('HDEL', key, 'm:' .. name)
local to = num(redis.call('HGET', channel(name), 'last'))
-- What came while it was a member is still for it.
if to > tonumber(known[5]) then
  redis.call('HSET', key, 'l:' .. int(to) .. ':' .. name, known[5])
  local left = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local to = string.match(field, '^l:(%d+):')
    if to then left[#left + 1] = { tonumber(to), field } end
  end
  if #left > 100 then
    table.sort(left, function (a, b) return a[1] < b[1] end)
    redis.call('HDEL', key, left[1][2])
    if left[1][1] > num(redis.call('HGET', key, 'trimmed')) then
      redis.call('HSET', key, 'trimmed', left[1][1], 'by', 'count')
      redis.call('HSET', key, 'last', math.max(left[1][1], num(redis.call('HGET', key, 'last'))))
    end
  end
end
exit(name)
local version = redis.call('HINCRBY', key, 'version', 1)
if known[3] ~= '' then tell(known[3], 'l ' .. id .. ' ' .. version .. ' ' .. int(to) .. ' ' .. name) end
return { version, int(to) }
