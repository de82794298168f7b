-- ARGS: id, name of the ticket, version of the session that the node has, whether the ticket is in the queue, then key and
-- fingerprint of each message, with an empty key if it has none.
-- Returns a status (`unknown`, `many`, `again`: send it again with a new command, `run`, `wait`), the decision on each message, and the record if
-- it is newer.
local id, ticket_name, version, is_queued = ARGS[1], ARGS[2], ARGS[3], ARGS[4] == '1'
local key = session_key(id)
local current_version, close_reason, owner, users = unpack(redis.call('HMGET', key, 'version', 'closeReason', 'owner', 'users'))
if not current_version or close_reason then return { 'unknown', {}, redis.call('HGETALL', key) } end
add_user(key, users)
local queue, keys = key .. ':queue', key .. ':keys'
local ticket = NODE .. ' ' .. ticket_name
local is_concurrent = is_concurrent_ticket(ticket)
local new_record = not clear_dead_owner(key, owner) and current_version == version and {} or redis.call('HGETALL', key)

-- Caches the result for each node: many keys are held by few nodes.
local known = {}
local function is_holder_alive (node)
  if known[node] == nil then known[node] = is_alive(node) end
  return known[node]
end

local head = live_head(key)
-- Redis may have lost the ticket since, or, for a retry, have it already.
if is_queued or is_retry then is_queued = has_ticket(key, ticket) end
local decisions, new_count, unclaimed = {}, 0, {}
for i = 5, #ARGS, 2 do
  local name, fingerprint = ARGS[i], ARGS[i + 1]
  local decision, is_claimed = 'new', name == ''
  local entry = not is_claimed and redis.call('HGET', keys, name)
  if entry then
    -- Running: r, fingerprint, ticket, nodes with repeats that wait. Completed: s, fingerprint, response. Dropped: d, fingerprint.
    local state, known_fingerprint, rest = string.match(entry, '^(%a) (%S+) (.*)$')
    local holder, waiters = string.match(rest, '^(%S+ c?%d+);(.*)$')
    if known_fingerprint ~= fingerprint then decision = 'reused'
    elseif state == 's' then decision = 's' .. rest
    elseif state == 'd' then decision = 'dropped'
    elseif holder == ticket then is_claimed = true
    elseif is_holder_alive(string.match(holder, '^%S+')) then
      decision = 'wait'
      if not string.find(waiters, NODE, 1, true) then redis.call('HSET', keys, name, entry .. NODE .. ',') end
    end
  end
  decisions[#decisions + 1] = decision
  if decision == 'new' then
    new_count = new_count + 1
    if not is_claimed then unclaimed[#unclaimed + 1] = i end
  end
end
if new_count > 0 and not is_queued then
  -- The node may have removed the ticket meanwhile. Not an error, because the commands after a failed one are not executed.
  if is_retry then return { 'again', {}, new_record } end
  local waiting = count_waiting(key, new_count)
  -- The first message is being handled, so it does not wait.
  if waiting > 0 and waiting - 1 + new_count > MAX_WAITING_MESSAGES then return { 'many', { tostring(waiting - 1) }, new_record } end
  local queued = ticket .. ' ' .. new_count
  if redis.call('RPUSH', queue, queued) == 1 then redis.call('PEXPIRE', queue, TTL) end
  redis.call('HINCRBY', key, 'waiting', new_count)
  if not is_concurrent then head = head or queued end
  is_queued = true
end
for _, i in ipairs(unclaimed) do
  redis.call('HSET', keys, ARGS[i], 'r ' .. ARGS[i + 1] .. ' ' .. ticket .. ';')
  -- Without it, the keys would stay in Redis if no node renews it.
  if redis.call('PTTL', keys) < 0 then redis.call('PEXPIRE', keys, TTL) end
end
local is_head = head and string.sub(head, 1, #ticket + 1) == ticket .. ' '
return { (is_concurrent or not is_queued or is_head) and 'run' or 'wait', decisions, new_record }
