-- ARGS: whether to register, whether the registration was lost, milliseconds between heartbeats, the options that all nodes
-- must share or ''. Renews the lease of this node, and advances the lease clock. The clock stops while Redis is
-- unavailable, so that neither leases nor sessions expire meanwhile.
-- Returns the time, the newest position, the rollback position, the number of sessions, and the expired sessions for which
-- this node has to run the onClose hooks, each with its deadline, and 1 if there are more runs to end or to remove.

-- The number of sessions that are examined, and that are assigned to this node.
local MAX_EXAMINED, MAX_ASSIGNED = 512, 64
local is_registration, is_lost, interval, options = ARGS[1] == '1', ARGS[2] == '1', tonumber(ARGS[3]), ARGS[4]
local clock_at = num(redis.call('HGET', P, 'clockAt'))
clock = clock + math.min(math.max(NOW - clock_at, 0) / 1000, interval * 2)
changes.leaseClock, changes.clockAt = clock, NOW

for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. ':nodes', '-inf', clock, 'LIMIT', 0, 16)) do expire_node(node) end
if is_registration and not applied then
  if options ~= '' then
    local current = redis.call('HGET', P, 'options')
    if current and current ~= options and redis.call('ZCARD', P .. ':nodes') > 0 then fail('OPTIONS ' .. current) end
    changes.options = options
  end
  applied, inbox = 0, 0
  changes['applied:' .. NODE], changes['inbox:' .. NODE] = 0, 0
end
if not applied then fail('FENCED') end
redis.call('ZADD', P .. ':nodes', clock + LEASE, NODE)
if is_lost or position < HIGHEST_POSITION then rollback() end

local assigned = {}
-- Assigns a session to this node for a while. The fraction distinguishes this deadline from one that a client has set anew.
local function assign (set, id)
  redis.call('ZADD', P .. set, clock + interval * 4 + 0.5, id)
  assigned[#assigned + 1] = id
  assigned[#assigned + 1] = redis.call('ZSCORE', P .. set, id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':deadlines', '-inf', clock, 'LIMIT', 0, MAX_EXAMINED)) do
  if #assigned == MAX_ASSIGNED * 2 then break end
  local owner, principal = unpack(redis.call('HMGET', session_key(id), 'owner', 'principal'))
  if owner and owner ~= '' then
    -- Either it has a stream, or the node of its stream has expired. Then it waits `resumeTimeout` for its client from now on.
    clear_dead_owner(session_key(id), owner)
    set_deadline(id, principal, RESUME_TIMEOUT)
  else assign(':deadlines', id) end
end
-- The onClose hooks may not have run for these.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':expired', '-inf', clock, 'LIMIT', 0, MAX_ASSIGNED)) do
  local node = string.match(redis.call('HGET', P .. ':e:' .. id, 'closedBy') or '', '^[^:]+')
  if not node then redis.call('ZREM', P .. ':expired', id)
  elseif node == NODE or not is_alive(node) then assign(':expired', id)
  else redis.call('ZADD', P .. ':expired', clock + LEASE, id) end
end
local has_more = runs.remove_expired()
for _, node in ipairs(redis.call('ZRANGEBYSCORE', runs.producers, '-inf', '+inf')) do
  if not is_alive(node) then
    if runs.lose(node) then has_more = true else redis.call('ZREM', runs.producers, node) end
  end
end
-- Shows the node whether its inbox works.
notify(NODE, 'heartbeat')
return { int(NOW), int(position), int(rollback_position), redis.call('ZCARD', P .. ':deadlines'), assigned, has_more and 1 or 0 }
