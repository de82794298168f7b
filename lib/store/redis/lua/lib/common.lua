-- Shared by all commands. script.ts joins the parts of the script: the settings, this file, log.lua, retention.lua, runs.lua,
-- the commands, dispatch.lua. KEYS[1] is the prefix of all keys, so that they are in one hash slot.
local P = KEYS[1]

-- With the argument `rights`, the script returns the rights that the user of this connection lacks, as rules of an ACL.
if ARGV[1] == 'rights' then
  -- Redis 8 raises an error for a number of arguments that the command cannot have, so the largest possible one is used.
  local function is_allowed (command, ...)
    local is_checked, result = pcall(redis.acl_check_cmd, command, ...)
    if is_checked or select('#', ...) == 0 then return is_checked and result end
    return is_allowed(command, select(2, ...))
  end
  local missing = {}
  for command in string.gmatch('TIME PUBLISH DEL EXISTS PEXPIRE PTTL RENAME UNLINK HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HMGET HSET LINDEX LPOP LRANGE LREM RPUSH XADD XLEN XRANGE XREVRANGE XTRIM ZADD ZCARD ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE ZSCORE', '%S+') do
    -- For some commands, all arguments are keys.
    local key = P .. ':x'
    if redis.acl_check_cmd and not is_allowed(command, key, key, key, key) then missing[#missing + 1] = '+' .. string.lower(command) end
  end
  return table.concat(missing, ' ')
end

-- The sender: its node id, the number of the command before the first one, the highest number whose reply it has received,
-- and the newest position that it has received.
local NODE = ARGV[1]
local PREVIOUS, ACKED, HIGHEST_POSITION = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local TIME = redis.call('TIME')
-- Microseconds, as positions are.
local NOW = TIME[1] * 1000000 + TIME[2]

-- Of the store: the newest position; the position up to which entries may be lost; the lease clock, in milliseconds.
local position, rollback_position, clock
-- Of the sender: the number of the newest command that was applied, and of the newest message in its inbox.
local applied, inbox
-- The number of the current command, and whether it was executed before: its reply may have been lost. A retry must not change
-- what later commands have changed.
local number, is_retry = 0, false
-- Fields of the store's hash that are written when all commands have been executed.
local changes = {}

-- Returned instead of a version if the sender must load the session to find out what has changed. Higher than every version.
local UNKNOWN_VERSION = 9e15

local function int (n) return string.format('%.0f', n) end
local function num (v) return tonumber(v or 0) or 0 end
local function fail (code) error({ err = code }) end
local function session_key (id) return P .. ':s:' .. id end
-- The final colon distinguishes the channel `a:log` from the log of the channel `a`.
local function channel_key (name) return P .. ':c:' .. name .. ':' end
local function publish_all (text) redis.call('PUBLISH', P .. ':all', text) end

-- Adds a message to the inbox of a node. The numbers show the node whether it has missed one. Returns the number.
local function notify (node, text)
  local field = 'inbox:' .. node
  local count = changes[field] or node == NODE and inbox or tonumber(redis.call('HGET', P, field) or nil)
  if not count then return 0 end
  changes[field] = count + 1
  redis.call('PUBLISH', P .. ':n:' .. node, int(count + 1) .. ' ' .. text)
  return count + 1
end

-- Adds a mark to the inbox of the sender, which applies the reply when it reaches the mark. So replies and publications keep
-- their order. Returns the number of the mark in the inbox.
local function mark_reply (token)
  return int(notify(NODE, 'reply ' .. token))
end

local function expire_node (node)
  redis.call('ZREM', P .. ':nodes', node)
  redis.call('HDEL', P, 'applied:' .. node, 'inbox:' .. node)
  changes['inbox:' .. node], changes['applied:' .. node] = nil, nil
  if node == NODE then applied, inbox = nil, nil end
  -- Messages that wait for a message of this node may be next.
  publish_all('expired ' .. node)
end

-- Whether a node has a lease. A node without one is expired from then on, and must register under a new id.
local function is_alive (node)
  if node == NODE and applied then return true end
  local lease_end = redis.call('ZSCORE', P .. ':nodes', node)
  if lease_end and tonumber(lease_end) > clock then return true end
  if lease_end or redis.call('HEXISTS', P, 'inbox:' .. node) == 1 then expire_node(node) end
  return false
end

-- Clears the owner of a session if its lease has ended. Returns true if it was cleared.
local function clear_dead_owner (key, owner)
  if not owner or owner == '' or is_alive(owner) then return false end
  redis.call('HSET', key, 'owner', '')
  redis.call('HINCRBY', key, 'version', 1)
  return true
end

-- Records that this node uses a session, so that it is notified when the session is closed. Runs have two such fields.
local function add_user (key, users, field)
  users = users or ''
  if string.find(users, NODE, 1, true) then return end
  if #users > 200 then
    local alive = {}
    for node in string.gmatch(users, '[^,]+') do if is_alive(node) then alive[#alive + 1] = node .. ',' end end
    users = table.concat(alive)
  end
  redis.call('HSET', key, field or 'users', users .. NODE .. ',')
end

-- Redis has lost data, for example because a replica without the newest writes was promoted. Reports all entries as lost that
-- were appended before now.
local function rollback ()
  -- The loss was reported before: the rollback position is not below the newest position of the sender.
  if rollback_position > 0 and rollback_position >= HIGHEST_POSITION then return end
  position = math.max(position, HIGHEST_POSITION, NOW) + 1
  rollback_position = position
  changes.position, changes.rollbackPosition = position, rollback_position
  publish_all('rollback ' .. int(rollback_position))
end
