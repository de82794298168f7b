-- Channels and what sessions read of them after leaving, how long sessions are kept, the queues of messages, and the responses
-- that are stored for repeats.

-- The ranges of left channels that a session has not read completely, the oldest first.
local function unread_ranges (key)
  local ranges = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local to, name = string.match(field, '^l:(%d+):(.*)$')
    if to then ranges[#ranges + 1] = { field = field, to = tonumber(to), name = name } end
  end
  table.sort(ranges, function (a, b) return a.to < b.to end)
  return ranges
end

-- Drops the range of a left channel. The loss is recorded in the session's own log, because the range cannot report it any more.
local function drop_range (key, range, reason)
  redis.call('HDEL', key, range.field)
  local last, trimmed = unpack(redis.call('HMGET', key, 'last', 'trimmed'))
  if range.to > num(trimmed) then redis.call('HSET', key, 'trimmed', range.to, 'trimReason', reason) end
  if range.to > num(last) then redis.call('HSET', key, 'last', range.to) end
end

-- A channel is a hash, with a log. It exists while it has members, or entries that are kept. After that, former members may
-- still read its log. If entries are to be kept, it has the fields `keep`, in milliseconds, and `membersExpireAt`: the hash may
-- be in Redis longer than sessions that are not closed because no node is running.
local channels = {}

-- The number of members, from the fields `members` and `membersExpireAt`.
function channels.count (members, expire_at)
  return expire_at and NOW > tonumber(expire_at) and 0 or num(members)
end

function channels.bounds (keep)
  if num(keep) == 0 then return CHANNEL_LOG end
  return { entries = CHANNEL_LOG.entries, bytes = CHANNEL_LOG.bytes, age = math.max(CHANNEL_LOG.age, tonumber(keep)) }
end

-- Sets the TTL of a channel. That of one that is kept is at least as long as that of its log.
function channels.set_ttl (key, is_kept)
  redis.call('PEXPIRE', key, is_kept and math.max(TTL, redis.call('PTTL', key .. ':log') + 5000) or TTL)
end

function channels.exists (members, keep, last)
  return members > 0 or num(keep) > 0 and NOW - num(last) <= channels.bounds(keep).age * 1000
end

-- Creates a channel, whose history starts after the current position.
function channels.start (key, last)
  redis.call('HSET', key, 'historyStart', position)
  -- If a channel with this name had entries before, Redis has removed them: all up to the current position count as lost.
  if not last then
    redis.call('HSET', key, 'trimmed', position, 'trimReason', 'age')
    redis.call('UNLINK', key .. ':log')
  end
end

-- Reads the newest entries up to a position, at most `count`, without those that exclude a session, until about READ_BYTES
-- are read. Returns the position up to which to continue, 0 if there are no more, and the frames, the newest first.
function channels.read_history (key, id, count, through)
  if count == 0 then return 0, {} end
  local start, keep = unpack(redis.call('HMGET', key, 'historyStart', 'keep'))
  local oldest = math.max(num(start) + 1, NOW - channels.bounds(keep).age * 1000)
  local frames, bytes = {}, 0
  while through >= oldest and bytes < READ_BYTES do
    local chunk = redis.call('XREVRANGE', key .. ':log', int(through), int(oldest), 'COUNT', 8)
    for _, entry in ipairs(chunk) do
      local frame, except = entry[2][2], entry[2][4]
      bytes = bytes + #frame + 60
      through = tonumber(string.match(entry[1], '^%d+')) - 1
      if except ~= id then frames[#frames + 1] = frame end
      if #frames == count then return 0, frames end
    end
    if #chunk < 8 then return 0, frames end
  end
  return through < oldest and 0 or through, frames
end

local function remove_member (name)
  local key = channel_key(name)
  if redis.call('HINCRBY', key, 'members', -1) > 0 then return end
  if redis.call('EXISTS', key .. ':log') == 0 then redis.call('DEL', key)
  else redis.call('PEXPIRE', key, redis.call('PTTL', key .. ':log') + 5000) end
end

-- Sets the time after which a session expires.
local function set_deadline (id, principal, milliseconds)
  redis.call('ZADD', P .. ':deadlines', clock + milliseconds, id)
  if principal then redis.call('ZADD', P .. ':p:' .. principal, clock + milliseconds, id) end
end

-- Sets the TTL of what is kept for a session. The log of an open session has its own, so that its entries expire by age.
local function set_ttl (key, milliseconds, with_log)
  for _, suffix in ipairs({ '', ':keys', ':order', ':queue', with_log and ':log' or nil }) do redis.call('PEXPIRE', key .. suffix, milliseconds) end
end

-- The queue of a session's messages is a list of tickets: `<node id> <name> <number of messages>`. The field `waiting` of the
-- session is the sum of these numbers. A name is a number; with the prefix `c` it belongs to a concurrent message, whose handler
-- does not wait for the first ticket.

local function drop_ticket (key, ticket)
  if redis.call('LREM', key .. ':queue', 1, ticket) > 0 then
    redis.call('HINCRBY', key, 'waiting', -tonumber(string.match(ticket, '%d+$')))
  end
end

local function is_concurrent_ticket (ticket) return string.find(ticket, ' c', 1, true) ~= nil end

-- Returns the first ticket of a node that has not expired, without concurrent ones. Those of expired nodes before it are removed.
local function live_head (key)
  local index = 0
  while true do
    local head = redis.call('LINDEX', key .. ':queue', index)
    if not head then return head end
    if not is_alive(string.match(head, '^%S+')) then drop_ticket(key, head)
    elseif is_concurrent_ticket(head) then index = index + 1
    else return head end
  end
end

local function find_ticket (key, ticket)
  for _, other in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
    if string.sub(other, 1, #ticket + 1) == ticket .. ' ' then return other end
  end
end

local function has_ticket (key, ticket) return find_ticket(key, ticket) ~= nil end

local function remove_ticket (key, ticket)
  local head = redis.call('LINDEX', key .. ':queue', 0)
  local found = head and string.sub(head, 1, #ticket + 1) == ticket .. ' ' and head or find_ticket(key, ticket)
  if found then drop_ticket(key, found) end
end

-- Tells the node of the first ticket that its messages are next.
local function notify_next (key)
  local node, name = string.match(live_head(key) or '', '^(%S+) (%d+)')
  if node then notify(node, 'turn ' .. name) end
end

-- Returns the number of messages in the queue. If there seem to be too many, those of expired nodes are removed first.
local function count_waiting (key, new_count)
  local waiting = num(redis.call('HGET', key, 'waiting'))
  if waiting - 1 + new_count <= MAX_WAITING_MESSAGES then return waiting end
  for _, ticket in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
    if not is_alive(string.match(ticket, '^%S+')) then drop_ticket(key, ticket) end
  end
  return num(redis.call('HGET', key, 'waiting'))
end

-- Limits the stored responses of a session after one was added: drops the oldest key if there are too many, and the oldest
-- responses if they have too many bytes. The keys of these stay, so that their messages are not handled again.
local function limit_responses (key, keys, order, count, added_bytes)
  local response_bytes, dropped_responses = unpack(redis.call('HMGET', key, 'responseBytes', 'droppedResponses'))
  -- The oldest keys have no response any more.
  local bytes, dropped = num(response_bytes) + added_bytes, num(dropped_responses)
  local function parse (name) return string.match(redis.call('HGET', keys, name) or '', '^%a (%S+) (.*)$') end
  if count > MAX_IDEMPOTENCY_KEYS then
    local name = redis.call('LPOP', order)
    local _, response = parse(name)
    if dropped > 0 then dropped = dropped - 1 else bytes = bytes - #(response or '') end
    redis.call('HDEL', keys, name)
  end
  while bytes > MAX_RESPONSE_BYTES do
    local name = redis.call('LINDEX', order, dropped)
    if not name then break end
    local fingerprint, response = parse(name)
    if fingerprint then redis.call('HSET', keys, name, 'd ' .. fingerprint .. ' ') end
    bytes, dropped = bytes - #(response or ''), dropped + 1
  end
  redis.call('HSET', key, 'responseBytes', math.max(bytes, 0), 'droppedResponses', dropped)
end
