-- Shared by all commands. script.ts joins the parts of the script in this order: this file, the modules, the commands,
-- dispatch.lua. It replaces the names with a dollar sign, such as $LEASE,
-- with their values, because local variables would take time in each execution. KEYS[1] is the prefix of all keys, so that they are in one hash slot.
local KEY_PREFIX = KEYS[1]

-- With the argument `rights`, the script returns the rights that the user of this connection lacks, as rules of an ACL.
if ARGV[1] == 'rights' then
  -- Redis 8 raises an error for a number of arguments that the command cannot have, so the largest possible one is used.
  local function is_allowed (command, ...)
    local is_checked, result = pcall(redis.acl_check_cmd, command, ...)
    if is_checked or select('#', ...) == 0 then return is_checked and result end
    return is_allowed(command, select(2, ...))
  end
  local missing = {}
  for command in string.gmatch($PUBLISH .. ' TIME DEL EXISTS PEXPIRE PTTL RENAME UNLINK HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HMGET HSET LINDEX LRANGE LREM RPUSH XADD XDEL XLEN XRANGE XREVRANGE XTRIM ZADD ZCARD ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE ZSCORE', '%S+') do
    -- All arguments are keys of the store, because for some commands they must be keys, and the user may use only these.
    local key = KEY_PREFIX .. ':x'
    if redis.acl_check_cmd and not is_allowed(command, key, key, key, key) then missing[#missing + 1] = '+' .. string.lower(command) end
  end
  return table.concat(missing, ' ')
end

-- While a slot is moved to another server, Redis raises an error for keys that do not exist (Redis Cluster specification). This
-- raises it before anything was changed, so that no command is executed in part.
if $IS_CLUSTER then redis.call('EXISTS', KEY_PREFIX .. ':none') end

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
local function publish_all (text) redis.call($PUBLISH, KEY_PREFIX .. ':all', text) end

-- Adds a notification to the inbox of a node. The numbers show the node whether it has missed one. Returns the number.
local function notify (node, text)
  local field = 'inbox:' .. node
  local count = store_changes[field] or node == NODE_ID and inbox_number or tonumber(redis.call('HGET', KEY_PREFIX, field) or nil)
  if not count then return 0 end
  store_changes[field] = count + 1
  redis.call($PUBLISH, KEY_PREFIX .. ':n:' .. node, format_integer(count + 1) .. ' ' .. text)
  return count + 1
end

-- Returns the reply of a command that returns state: its number in the inbox, the newest position, the rollback position, and
-- the value. Adds a marker to the inbox of the sender: a notification with this number and the token, which identifies the command
-- for the sender. The sender applies the reply when it reaches the marker, so replies and publications keep their order.
local function marked_reply (token, value)
  return { format_integer(notify(NODE_ID, 'reply ' .. token)), format_integer(position), format_integer(rollback_position), value }
end

-- `create_function` creates a module, or the function of a command, by its name. `require` calls it once for each name.
local create_function
local created = {}
local function require (name)
  created[name] = created[name] or create_function(name)
  return created[name]
end
