-- Renews the lease of this node, and advances the lease clock. The clock stops while Redis is unavailable, so that neither leases
-- nor sessions expire meanwhile.
-- ARGS:
--   whether to register
--   to register: the previous id of this node, or '', and the highest number of a command under that id whose reply has arrived
--   milliseconds between heartbeats
--   the options that all nodes must share, or ''
--   the names of the producers of which this node can restart runs
-- Returns:
--   the time, the newest position, the rollback position and the number of sessions
--   the expired sessions for which this node has to run the onClose hooks, each with its deadline
--   1 if there are more runs to end or to remove
--   the runs that this node can restart
local nodes, retention, runs = require('nodes'), require('retention'), require('runs')

-- The number of sessions that are examined, and that are assigned to this node.
local MAX_EXAMINED, MAX_ASSIGNED = 512, 64
local is_registration, previous_id, previous_acked, interval, options = ARGS[1] == '1', ARGS[2], tonumber(ARGS[3]), tonumber(ARGS[4]), ARGS[5]
lease_clock, clock_at = lease_clock + math.min(math.max(NOW - clock_at, 0) / 1000, interval * 2), NOW
store_changes.leaseClock, store_changes.clockAt = lease_clock, clock_at

for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY_PREFIX .. ':nodes', '-inf', lease_clock, 'LIMIT', 0, 16)) do nodes.expire(node) end
if is_registration and not applied_number then
  if options ~= '' then
    local current = redis.call('HGET', KEY_PREFIX, 'options')
    if current and current ~= options and redis.call('ZCARD', KEY_PREFIX .. ':nodes') > 0 then raise('OPTIONS ' .. current) end
    store_changes.options = options
  end
  applied_number, inbox_number = 0, 0
  store_changes['applied:' .. NODE_ID], store_changes['inbox:' .. NODE_ID] = 0, 0
end
if not applied_number then raise('FENCED') end
redis.call('ZADD', KEY_PREFIX .. ':nodes', lease_clock + $LEASE, NODE_ID)
-- Whether the writes under the previous id were lost. Other nodes may have moved the position on since.
local function has_lost_previous ()
  local applied = redis.call('HGET', KEY_PREFIX .. ':fenced:' .. previous_id, 'applied')
  return not applied or tonumber(applied) < previous_acked
end
if position < HIGHEST_POSITION or previous_id ~= '' and has_lost_previous() then require('rollback')() end

local assigned = {}
-- After a rollback, the nodes close again the sessions whose close Redis has lost. No session expires for two leases, in which they
-- do that, because otherwise the hooks would run again.
local may_expire = lease_clock > to_number(store_changes.noExpiryUntil or redis.call('HGET', KEY_PREFIX, 'noExpiryUntil'))
local function list_due (set, count) return may_expire and redis.call('ZRANGEBYSCORE', KEY_PREFIX .. set, '-inf', lease_clock, 'LIMIT', 0, count) or {} end
-- Assigns a session to this node for a while. `set_deadline` writes whole microseconds, and this half of one, so that `end` can detect
-- that the deadline was changed.
local function assign (set, id)
  redis.call('ZADD', KEY_PREFIX .. set, lease_clock + interval * 4 + 0.0005, id)
  assigned[#assigned + 1] = id
  assigned[#assigned + 1] = redis.call('ZSCORE', KEY_PREFIX .. set, id)
end
for _, id in ipairs(list_due(':deadlines', MAX_EXAMINED)) do
  if #assigned == MAX_ASSIGNED * 2 then break end
  local owner, principal = unpack(redis.call('HMGET', session_key(id), 'owner', 'principal'))
  if owner and owner ~= '' then
    -- If the lease of the owner has ended, the client has `resumeTimeout` from now on. An owner with a lease renews the deadline while
    -- it has the stream. If the owner has no stream, Redis has lost the `release`, and the owner sends it again.
    if not nodes.clear_expired_owner(session_key(id), owner) then notify(owner, 'stream_check ' .. id) end
    retention.set_deadline(id, principal, $RESUME_TIMEOUT)
  else assign(':deadlines', id) end
end
-- The onClose hooks of these expired sessions may not have run. Those that a node with a lease has closed stay due until its next
-- heartbeat.
for _, id in ipairs(list_due(':unacked_expiries', MAX_ASSIGNED)) do
  local node = redis.call('HGET', KEY_PREFIX .. ':e:' .. id, 'closedBy')
  if not node then redis.call('ZREM', KEY_PREFIX .. ':unacked_expiries', id)
  elseif node == NODE_ID or not nodes.check_lease(node) then assign(':unacked_expiries', id) end
end
runs.remove_expired()
for _, node in ipairs(redis.call('ZRANGEBYSCORE', runs.producers, '-inf', '+inf')) do
  if not nodes.check_lease(node) then runs.end_lost(node) end
end
local released = runs.find_released({ unpack(ARGS, 6) })
-- Shows the node whether its inbox works.
notify(NODE_ID, 'heartbeat')
return { format_integer(NOW), format_integer(position), format_integer(rollback_position), redis.call('ZCARD', KEY_PREFIX .. ':deadlines'), assigned, runs.has_more() and 1 or 0, released }
