-- What a session has left, and how long it lives.

-- The channels that a session has left with something still to read, the oldest first.
local function lefts (key)
  local left = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local to, name = string.match(field, '^l:(%d+):(.*)$')
    if to then left[#left + 1] = { field = field, to = tonumber(to), name = name } end
  end
  table.sort(left, function (a, b) return a.to < b.to end)
  return left
end

-- Of what it has left nothing can be had any more. Its own log keeps that there was something.
local function forget (key, left, by)
  redis.call('HDEL', key, left.field)
  local meta = redis.call('HMGET', key, 'last', 'trimmed')
  if left.to > num(meta[2]) then redis.call('HSET', key, 'trimmed', left.to, 'by', by) end
  if left.to > num(meta[1]) then redis.call('HSET', key, 'last', left.to) end
end

-- The channel has a member less.
local function exit (name)
  local key = channel(name)
  if redis.call('HINCRBY', key, 'members', -1) > 0 then return end
  if redis.call('EXISTS', key .. ':log') == 0 then redis.call('DEL', key)
  else redis.call('PEXPIRE', key, redis.call('PTTL', key .. ':log') + 5000) end
end

-- Has a session wait for its client for so long, from now on.
local function wait (id, principal, milliseconds)
  redis.call('ZADD', P .. ':deadlines', clock + milliseconds, id)
  if principal then redis.call('ZADD', P .. ':p:' .. principal, clock + milliseconds, id) end
end

local function each (key, act)
  for _, suffix in ipairs({ '', ':log', ':keys', ':order', ':queue' }) do act(key .. suffix) end
end

local function keep (key, milliseconds)
  each(key, function (part) redis.call('PEXPIRE', part, milliseconds) end)
end
