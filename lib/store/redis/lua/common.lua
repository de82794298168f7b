-- Shared by all commands. script.ts joins the parts of the script in this order: the settings, this file, the modules, the
-- commands, dispatch.lua. KEYS[1] is the prefix of all keys, so that they are in one hash slot.
local KEY_PREFIX = KEYS[1]
-- In a cluster, PUBLISH would send a publication to all servers, SPUBLISH sends it only to those of its slot.
local PUBLISH = IS_CLUSTER and 'SPUBLISH' or 'PUBLISH'

-- With the argument `rights`, the script returns the rights that the user of this connection lacks, as rules of an ACL.
if ARGV[1] == 'rights' then
  -- Redis 8 raises an error for a number of arguments that the command cannot have, so the largest possible one is used.
  local function is_allowed (command, ...)
    local is_checked, result = pcall(redis.acl_check_cmd, command, ...)
    if is_checked or select('#', ...) == 0 then return is_checked and result end
    return is_allowed(command, select(2, ...))
  end
  local missing = {}
  for command in string.gmatch(PUBLISH .. ' TIME DEL EXISTS PEXPIRE PTTL RENAME UNLINK HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HMGET HSET LINDEX LRANGE LREM RPUSH XADD XDEL XLEN XRANGE XREVRANGE XTRIM ZADD ZCARD ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE ZSCORE', '%S+') do
    -- All arguments are keys of the store, because for some commands they must be keys, and the user may use only these.
    local key = KEY_PREFIX .. ':x'
    if redis.acl_check_cmd and not is_allowed(command, key, key, key, key) then missing[#missing + 1] = '+' .. string.lower(command) end
  end
  return table.concat(missing, ' ')
end

-- While a slot is moved to another server, Redis raises an error for keys that do not exist (Redis Cluster specification). This
-- raises it before anything was changed, so that no command is executed in part.
if IS_CLUSTER then redis.call('EXISTS', KEY_PREFIX .. ':none') end

-- The sender of this batch: its node id, the number of the command before the batch, the highest number of a command whose reply it
-- has received since the last rollback that it has applied, and the newest position that it has received.
local NODE_ID = ARGV[1]
local PREVIOUS_NUMBER, ACKED_NUMBER, HIGHEST_POSITION = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local TIME = redis.call('TIME')
-- Microseconds, as positions are.
local NOW = TIME[1] * 1000000 + TIME[2]

-- Of the store: the newest position; the position up to which entries may be lost; the lease clock, in milliseconds, by which leases,
-- sessions and runs expire, and the time of the heartbeat that has advanced it.
local position, rollback_position, lease_clock, clock_at
-- Of the sender: the number of the newest command that was executed, and of the newest notification in its inbox.
local applied_number, inbox_number
-- The number of the current command, and whether it was executed before: its reply may have been lost. A retry must not change
-- what later commands have changed.
local command_number, is_retry = 0, false
-- The work of the commands so far, as the bytes of logs that could have been read in the same time.
local work = 0
-- Fields of the store's hash that are written when all commands have been executed.
local store_changes = {}

-- Returned instead of a version if the sender must load the session to find out what has changed. Higher than every version.
local UNKNOWN_VERSION = 9e15

local function format_integer (n) return string.format('%.0f', n) end
local function to_number (v) return tonumber(v or 0) or 0 end
local function raise (code) error({ err = code }) end
local function session_key (id) return KEY_PREFIX .. ':s:' .. id end
-- The final colon distinguishes the channel `a:log` from the log of the channel `a`.
local function channel_key (name) return KEY_PREFIX .. ':c:' .. name .. ':' end
local function run_key (id) return KEY_PREFIX .. ':r:' .. id end
-- Returns the record of a session.
local function read_record (key)
  local record = redis.call('HGETALL', key)
  work = work + #record * 20
  return record
end
local function publish_all (text) redis.call(PUBLISH, KEY_PREFIX .. ':all', text) end

-- Adds a notification to the inbox of a node. The numbers show the node whether it has missed one. Returns the number.
local function notify (node, text)
  local field = 'inbox:' .. node
  local count = store_changes[field] or node == NODE_ID and inbox_number or tonumber(redis.call('HGET', KEY_PREFIX, field) or nil)
  if not count then return 0 end
  store_changes[field] = count + 1
  redis.call(PUBLISH, KEY_PREFIX .. ':n:' .. node, format_integer(count + 1) .. ' ' .. text)
  return count + 1
end

-- Returns the reply of a command that returns state: its number in the inbox, the newest position, the rollback position, and
-- the value. Adds a marker to the inbox of the sender: a notification with this number and the token, which identifies the command
-- for the sender. The sender applies the reply when it reaches the marker, so replies and publications keep their order.
local function marked_reply (token, value)
  return { format_integer(notify(NODE_ID, 'reply ' .. token)), format_integer(position), format_integer(rollback_position), value }
end

-- The nodes that have a lease, as far as this script knows. Many messages belong to few nodes.
local has_lease = {}

local function expire_node (node)
  has_lease[node] = nil
  -- The number of its last command shows whether Redis has lost commands, when the node registers under a new id.
  local applied = redis.call('HGET', KEY_PREFIX, 'applied:' .. node)
  if applied then
    redis.call('HSET', KEY_PREFIX .. ':fenced:' .. node, 'applied', applied)
    redis.call('PEXPIRE', KEY_PREFIX .. ':fenced:' .. node, 3600000)
  end
  redis.call('ZREM', KEY_PREFIX .. ':nodes', node)
  redis.call('HDEL', KEY_PREFIX, 'applied:' .. node, 'inbox:' .. node)
  redis.call('DEL', KEY_PREFIX .. ':tickets:' .. node)
  store_changes['inbox:' .. node], store_changes['applied:' .. node] = nil, nil
  if node == NODE_ID then applied_number, inbox_number = nil, nil end
  -- Messages that wait for a message of this node may be next now.
  publish_all('queues_changed')
end

-- Returns whether a node has a lease. Expires a node without one: it must register under a new id.
local function check_lease (node)
  if node == NODE_ID and applied_number or has_lease[node] then return true end
  local lease_end = redis.call('ZSCORE', KEY_PREFIX .. ':nodes', node)
  has_lease[node] = lease_end and tonumber(lease_end) > lease_clock
  if has_lease[node] then return true end
  if lease_end or redis.call('HEXISTS', KEY_PREFIX, 'inbox:' .. node) == 1 then expire_node(node) end
  return false
end

-- Clears the owner of a session if its lease has ended. Returns true if it was cleared.
local function clear_expired_owner (key, owner)
  if not owner or owner == '' or check_lease(owner) then return false end
  redis.call('HSET', key, 'owner', '')
  redis.call('HINCRBY', key, 'version', 1)
  return true
end

-- Records that this node uses a session, so that it is notified when the session is closed. A run also has the field
-- `readerNodes`, for those that receive its entries.
local function add_node (key, nodes, field)
  nodes = nodes or ''
  if string.find(nodes, NODE_ID, 1, true) then return end
  -- 200 characters are about 15 ids. Some may be those of nodes that have failed.
  if #nodes > 200 then
    local with_lease = {}
    for node in string.gmatch(nodes, '[^,]+') do if check_lease(node) then with_lease[#with_lease + 1] = node .. ',' end end
    nodes = table.concat(with_lease)
  end
  redis.call('HSET', key, field or 'nodes', nodes .. NODE_ID .. ',')
end

-- Redis has lost data, for example because a replica without the newest writes was promoted. Reports all entries so far as lost.
local function rollback ()
  -- A rollback that the sender has not received yet has reported this loss.
  if rollback_position > HIGHEST_POSITION then return end
  position = math.max(position, HIGHEST_POSITION, NOW) + 1
  rollback_position = position
  store_changes.position, store_changes.rollbackPosition, store_changes.noExpiryUntil = position, rollback_position, lease_clock + LEASE * 2
  publish_all('rollback ' .. format_integer(rollback_position))
end

-- `create_function` creates a module, or the function of a command, by its name. `require` calls it once for each name.
local create_function
local created = {}
local function require (name)
  created[name] = created[name] or create_function(name)
  return created[name]
end
