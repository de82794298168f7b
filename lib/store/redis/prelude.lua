-- Stands in front of every script, behind the settings (see scripts.ts). KEYS[1] begins every key, so that all are in
-- one slot. ARGV begins with who asks (see line.ts):
local P = KEYS[1]
local NODE = ARGV[1]
local OP, AFTER, DONE = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local SEEN, UNTIL = tonumber(ARGV[5]), tonumber(ARGV[6])
local ARGS = 6

local TIME = redis.call('TIME')
-- Microseconds, as positions are.
local NOW = TIME[1] * 1000000 + TIME[2]

-- Of the store: the newest position, the one below which entries may be lost, and the milliseconds of the active clock.
local pos, back, clock
-- Of this node: the number of the last command that it ran, and of the last thing that it was told.
local ran, told
-- Whether this command has run before, and its answer was lost.
local again = false
-- What is to be written of these when the script is done, by field.
local changes = {}

local function int (n) return string.format('%.0f', n) end
local function num (v) return tonumber(v or 0) or 0 end
local function fail (code) error({ err = code }) end
local function session (id) return P .. ':s:' .. id end
local function channel (name) return P .. ':c:' .. name end
local function announce (text) redis.call('PUBLISH', P .. ':all', text) end

-- Tells a node something. The numbers show it whether it has missed anything.
local function tell (node, text)
  local field = 'told:' .. node
  local count = changes[field] or node == NODE and told or tonumber(redis.call('HGET', P, field) or nil)
  if not count then return end
  changes[field] = count + 1
  redis.call('PUBLISH', P .. ':n:' .. node, int(count + 1) .. ' ' .. text)
end

local function bury (node)
  redis.call('ZREM', P .. ':nodes', node)
  redis.call('HDEL', P, 'ran:' .. node, 'told:' .. node)
  changes['told:' .. node] = nil
  if node == NODE then ran, told = nil, nil end
end

-- Who is found dead is so from then on: it has to come back under another name.
local function alive (node)
  if node == NODE then return true end
  local seen = redis.call('ZSCORE', P .. ':nodes', node)
  if seen and seen + LEASE > clock then return true end
  bury(node)
  return false
end

-- A session whose stream was on a node that has died has none. Answers whether that is so.
local function disown (key, owner)
  if not owner or owner == '' or alive(owner) then return false end
  redis.call('HSET', key, 'owner', '')
  redis.call('HINCRBY', key, 'version', 1)
  return true
end

local function recall ()
  local main = redis.call('HMGET', P, 'pos', 'back', 'clock', 'ran:' .. NODE, 'told:' .. NODE)
  pos, back, clock = num(main[1]), num(main[2]), num(main[3])
  ran, told = tonumber(main[4] or nil), tonumber(main[5] or nil)
end

-- Writes what has changed of the store and of nodes. Called when a script is done.
local function commit ()
  local list = {}
  for field, value in pairs(changes) do
    list[#list + 1] = field
    list[#list + 1] = value
  end
  if #list > 0 then redis.call('HSET', P, unpack(list)) end
end

-- The store is a replica that had not got all: what it lost is said to be everything up to now.
local function goneBack ()
  pos = math.max(pos, SEEN, NOW) + 1
  back = pos
  changes.pos, changes.back = pos, back
  announce('k ' .. int(back))
end

-- Refuses what its sender has given up, what comes from a node that is taken for dead, and what comes before what was sent first.
local function enter ()
  if NOW > UNTIL then fail('LATE') end
  recall()
  if not ran then fail('FENCED') end
  if AFTER > ran then fail('ORDER') end
  again = OP <= ran
  if not again then changes['ran:' .. NODE] = OP end
  if pos < SEEN or ran < DONE then goneBack() end
end

local function take ()
  pos = math.max(pos + 1, NOW)
  changes.pos = pos
  return pos
end

-- Trims a log to its bounds. Called now and then, not with every entry: readers keep to the bounds by themselves.
local function trim (key, bounds, bytes, last)
  local log = key .. ':log'
  local length = redis.call('XLEN', log)
  if length == 1 and last > 0 then
    -- The others have expired, as a whole.
    redis.call('HSET', key, 'trimmed', last, 'by', 'age')
    bytes = #redis.call('XRANGE', log, '-', '+')[1][2][2]
  end
  local low = NOW - bounds.age * 1000
  local trimmed, by
  local over = true
  while over and length > 0 do
    for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 64)) do
      local position = tonumber(string.match(entry[1], '^%d+'))
      local reason = length > bounds.entries and 'count' or bytes > bounds.bytes and 'bytes' or position < low and 'age'
      over = reason ~= false
      if not over then break end
      bytes = bytes - #entry[2][2]
      length = length - 1
      trimmed, by = position, reason
    end
    if trimmed then redis.call('XTRIM', log, 'MINID', int(trimmed + 1)) end
  end
  if trimmed then redis.call('HSET', key, 'trimmed', trimmed, 'by', by) end
  redis.call('HSET', key, 'bytes', bytes, 'count', length, 'due', NOW + bounds.age * 125)
  redis.call('PEXPIRE', log, math.ceil(bounds.age * 1.25) + 5000)
end

-- Adds an entry to a log, whose newest was `last`, and answers with its position.
local function append (key, bounds, meta, frame, except)
  local log = key .. ':log'
  local last, bytes, count = num(meta[1]), num(meta[2]) + #frame, num(meta[3]) + 1
  local position = take()
  if except == '' then redis.call('XADD', log, int(position) .. '-0', 'f', frame)
  else redis.call('XADD', log, int(position) .. '-0', 'f', frame, 'x', except) end
  redis.call('HSET', key, 'last', position, 'bytes', bytes, 'count', count)
  if NOW > num(meta[4]) or count > bounds.entries * 1.1 or bytes > bounds.bytes * 1.1 then trim(key, bounds, bytes, last) end
  return position
end

-- What a log has after a position: its newest position, how far it is trimmed and why, and the entries.
local function entries (key, after)
  local meta = redis.call('HMGET', key, 'last', 'trimmed', 'by')
  local last, trimmed, by = num(meta[1]), num(meta[2]), meta[3] or 'count'
  local list = {}
  if last > after then list = redis.call('XRANGE', key .. ':log', int(after + 1), '+') end
  if last > trimmed and redis.call('EXISTS', key .. ':log') == 0 then trimmed, by = last, 'age' end
  return { int(last), int(trimmed), by, list }
end

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
