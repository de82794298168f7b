-- Runs. A run is a hash, with a log. The run of a delivery has the field `session`: the log of this session gets an entry when the
-- run ends.
-- The sorted set `runs` contains every run except those of deliveries: one that has ended with the position of its end, another
-- one with `runs.RUNNING`. `runs_kept` contains those that have ended, with the time of their removal. `runs:<node>` contains
-- all runs that a node produces, and `producers` the nodes that may have such a set. The hash `run_names` has
-- the id of the newest run with each name and principal.
-- A run that can be restarted has the field `producer`, the name of its producer, and, after a restart, `term`, a number that
-- no other restart has. `runs_released` contains those that no node produces, with the time at which they end as `lost`.
local logs, nodes, retention = require('logs'), require('nodes'), require('retention')
local runs = { names = KEY_PREFIX .. ':run_names', all = KEY_PREFIX .. ':runs', kept = KEY_PREFIX .. ':runs_kept', released = KEY_PREFIX .. ':runs_released', producers = KEY_PREFIX .. ':producers', RUNNING = 9e15 }
-- The number of runs that the script may still end or remove because a time has passed or a node has failed. Another one continues,
-- so that Redis is not blocked.
local max_changed = 128
-- The number of released runs that are examined.
local MAX_EXAMINED = 512
-- How often a run is restarted because its node has failed. After one more failure, it ends: it may be what makes the nodes fail.
local MAX_FAILURES = 3

-- Returns the runs of a sorted set whose score is not higher than a time, and counts them as changed.
local function take_due (key, time)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', time, 'LIMIT', 0, max_changed)
  max_changed = max_changed - #ids
  return ids
end

-- Returns whether there may be more runs to change.
function runs.has_more () return max_changed == 0 end

function runs.producer_key (node) return KEY_PREFIX .. ':runs:' .. node end

-- What a node needs of a run. If the run does not exist, all values are false.
function runs.record (id) return redis.call('HMGET', run_key(id), 'input', 'startPosition', 'outcome', 'endPosition', 'owner', 'term') end

-- Records that this node uses a run, so that it is notified of the end (field `nodes`), or that it has readers of the run, so that
-- it is notified of the entries (field `readerNodes`).
function runs.add_node (id, field) nodes.add_self(run_key(id), redis.call('HGET', run_key(id), field), field) end

function runs.remove (id)
  local key = run_key(id)
  local name = redis.call('HGET', key, 'name')
  if name and redis.call('HGET', runs.names, name) == id then redis.call('HDEL', runs.names, name) end
  redis.call('ZREM', runs.all, id)
  redis.call('ZREM', runs.kept, id)
  redis.call('UNLINK', key, key .. ':log')
end

-- Ends a run that a node produces. The notification contains the position of the last entry, so that a node can detect missing
-- entries.
function runs.finish (id, owner, outcome, ended_by)
  work = work + 1000
  local key = run_key(id)
  local node_ids, keep, last, session, part_prefix = unpack(redis.call('HMGET', key, 'nodes', 'keep', 'last', 'session', 'partPrefix'))
  redis.call('ZREM', runs.producer_key(owner), id)
  redis.call('ZREM', runs.released, id)
  -- The hash was evicted.
  if not node_ids then return runs.remove(id) end
  local end_position = logs.next_position()
  redis.call('HSET', key, 'outcome', outcome, 'endPosition', end_position, 'endedBy', ended_by)
  if session then
    if part_prefix ~= '' then logs.append_to_session(session, part_prefix .. '"end":' .. outcome .. '}\n\n', '') end
    redis.call('HDEL', runs.names, redis.call('HGET', key, 'name'))
    -- Kept for a minute, so that a retry still finds the outcome.
    redis.call('PEXPIRE', key, 60000)
  else
    redis.call('ZADD', runs.all, end_position, id)
    redis.call('ZADD', runs.kept, retention.get_deadline(keep), id)
    -- Nodes remove the run. The TTL removes it if no node is running.
    redis.call('PEXPIRE', key, keep + 3600000)
  end
  for node in string.gmatch(node_ids, '[^,]+') do
    notify(node, 'run_ended ' .. id .. ' ' .. format_integer(to_number(last)) .. ' ' .. format_integer(end_position) .. ' ' .. outcome)
  end
end

-- Lets another node restart a run, if there is one within the time of a lease.
function runs.release (id, owner)
  redis.call('ZREM', runs.producer_key(owner), id)
  redis.call('HSET', run_key(id), 'owner', '')
  redis.call('ZADD', runs.released, lease_clock + $LEASE, id)
end

-- Ends the runs of a node that have no producer any more. `producing` has the ids of those that have one; nil if the node has
-- failed: then, runs that can be restarted are released instead.
function runs.end_lost (node, producing)
  local key = runs.producer_key(node)
  for _, id in ipairs(producing and redis.call('ZRANGEBYSCORE', key, '-inf', '+inf') or take_due(key, '+inf')) do
    if not producing and redis.call('HEXISTS', run_key(id), 'producer') == 1 and redis.call('HINCRBY', run_key(id), 'failures', 1) <= MAX_FAILURES then runs.release(id, node)
    elseif not (producing and producing[id]) then runs.finish(id, node, '{"status":"lost"}', '') end
  end
  if not producing and not runs.has_more() then redis.call('ZREM', runs.producers, node) end
end

-- Ends the runs that no node has restarted in time. Returns the ids of those that can be restarted by a node that has these
-- producers.
function runs.find_released (producers)
  local ids, is_producing = {}, {}
  for _, name in ipairs(producers) do is_producing[name] = true end
  for _, id in ipairs(take_due(runs.released, lease_clock)) do runs.finish(id, '', '{"status":"lost"}', '') end
  local released = redis.call('ZRANGEBYSCORE', runs.released, '-inf', '+inf', 'LIMIT', 0, MAX_EXAMINED)
  for _, id in ipairs(released) do if is_producing[redis.call('HGET', run_key(id), 'producer')] then ids[#ids + 1] = id end end
  return ids
end

-- Removes runs that were kept for long enough.
function runs.remove_expired ()
  for _, id in ipairs(take_due(runs.kept, lease_clock)) do runs.remove(id) end
end

return runs
