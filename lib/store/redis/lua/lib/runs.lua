-- A run is a hash, with a log. `runs` has all runs: those that have ended with the position of the end, the
-- others with `runs.RUNNING`.
-- `runs_kept` has those that have ended with the time of their removal. `runs:<node>` has those that the node produces, and
-- `producers` the nodes that may have such a key. One table has all functions, because a function of Lua can use only 60 outer
-- variables. The run of a delivery has a session, whose log gets an entry at its end. It is in `runs:<node>` only.
local runs = { names = P .. ':run_names', all = P .. ':runs', kept = P .. ':runs_kept', producers = P .. ':producers', RUNNING = 9e15 }
-- The number of runs that one command ends, or removes. Another one continues, so that Redis is not blocked.
local MAX_CHANGED_RUNS = 512

function runs.key (id) return P .. ':r:' .. id end
function runs.producer_key (node) return P .. ':runs:' .. node end

-- What a node needs of a run. If the run does not exist, all values are false.
function runs.record (id) return redis.call('HMGET', runs.key(id), 'input', 'startPosition', 'outcome', 'endPosition') end

-- Records that this node uses a run, so that it is notified of its end, or that it has readers, so that it gets the entries.
function runs.add_user (id, field) add_user(runs.key(id), redis.call('HGET', runs.key(id), field), field) end

function runs.remove (id)
  local key = runs.key(id)
  local name = redis.call('HGET', key, 'name')
  if name and redis.call('HGET', runs.names, name) == id then redis.call('HDEL', runs.names, name) end
  redis.call('ZREM', runs.all, id)
  redis.call('ZREM', runs.kept, id)
  redis.call('UNLINK', key, key .. ':log')
end

-- Ends a run that a node produces. The message of the end has the position of the last entry, so that a node can detect missing entries.
function runs.finish (id, owner, outcome, ended_by)
  local key = runs.key(id)
  local users, keep, last, session, part_prefix = unpack(redis.call('HMGET', key, 'users', 'keep', 'last', 'session', 'partPrefix'))
  redis.call('ZREM', runs.producer_key(owner), id)
  -- Redis has evicted it.
  if not users then return runs.remove(id) end
  local end_position = next_position()
  redis.call('HSET', key, 'outcome', outcome, 'endPosition', end_position, 'endedBy', ended_by)
  if session then
    append_to_session(session, part_prefix .. '"end":' .. outcome .. '}\n\n', '')
    redis.call('HDEL', runs.names, redis.call('HGET', key, 'name'))
    redis.call('PEXPIRE', key, 60000)
  else
    redis.call('ZADD', runs.all, end_position, id)
    redis.call('ZADD', runs.kept, clock + keep, id)
    -- Nodes remove the run. The TTL removes it if no node is running.
    redis.call('PEXPIRE', key, keep + 3600000)
  end
  for node in string.gmatch(users, '[^,]+') do
    notify(node, 'run_ended ' .. id .. ' ' .. int(num(last)) .. ' ' .. int(end_position) .. ' ' .. outcome)
  end
end

-- Ends the runs of a node for which there is no producer any more. Returns whether there may be more.
function runs.lose (node, producing)
  local ids = redis.call('ZRANGEBYSCORE', runs.producer_key(node), '-inf', '+inf', 'LIMIT', 0, producing and -1 or MAX_CHANGED_RUNS)
  for _, id in ipairs(ids) do
    if not (producing and producing[id]) then runs.finish(id, node, '{"status":"lost"}', '') end
  end
  return #ids == MAX_CHANGED_RUNS
end

-- Removes runs that were kept for long enough. Returns whether there may be more.
function runs.remove_expired ()
  local ids = redis.call('ZRANGEBYSCORE', runs.kept, '-inf', clock, 'LIMIT', 0, MAX_CHANGED_RUNS)
  for _, id in ipairs(ids) do runs.remove(id) end
  return #ids == MAX_CHANGED_RUNS
end
