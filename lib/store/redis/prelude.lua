-- What all operations share. The script is put together in script.ts: settings, this, log.lua, life.lua, the operations, main.lua.
-- KEYS[1] begins every key, so that all are in one slot. ARGV begins with who asks (see line.ts):
local P = KEYS[1]
local NODE = ARGV[1]
local AFTER, DONE, SEEN = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local TIME = redis.call('TIME')
-- Microseconds, as positions are.
local NOW = TIME[1] * 1000000 + TIME[2]

-- Of the store: the newest position, the one below which entries may be lost, and the milliseconds of the active clock.
local pos, back, clock
-- Of this node: the number of the last order that was done for it, and of the last thing that it was told.
local ran, told
-- The number of the order that is being done, and whether it was done before, and the answer was lost. Then what was done
-- since, by whomever, stands.
local OP, again = 0, false
-- The version of a session, to one who has to load what has become of it.
local UNKNOWN = 9e15
-- What is to be written of these when all is done, by field.
local changes = {}

local function int (n) return string.format('%.0f', n) end
local function num (v) return tonumber(v or 0) or 0 end
local function fail (code) error({ err = code }) end
local function session (id) return P .. ':s:' .. id end
-- The colon tells it from the log of a channel that is called the same but for `:log`.
local function channel (name) return P .. ':c:' .. name .. ':' end
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

-- The store is a replica that had not got all: what it lost is said to be everything up to now.
local function goneBack ()
  -- It was said since this node last heard anything: nothing is lost that is not covered.
  if back > 0 and back >= SEEN then return end
  pos = math.max(pos, SEEN, NOW) + 1
  back = pos
  changes.pos, changes.back = pos, back
  announce('k ' .. int(back))
end
