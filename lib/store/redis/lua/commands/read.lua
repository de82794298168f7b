-- Reads logs, and what has changed of sessions and runs, for the replicas of this node.
-- ARGS: token, then seven for each item:
--   kind: `session` (with a stream on this node), `channel`, `broadcasts`, `run` (with readers on this node), or `unverified_session`,
--     `unverified_run` (which the node uses without reading the log)
--   name, or id
--   position after which to read
--   position up to which to read
--   position of the newest entry that the node has, or 0
--   for a session: epoch of the stream
--   for a session: version of the record that the node has
-- Returns a marked reply with a value for each item, up to the last one that the byte limit allows. The value is for a log: the
-- result of `read_log`, with a sixth value: for a session its record if it is newer, for a run its record, for a channel how long
-- its entries are kept; for `unverified_session`: the version; for `unverified_run`: the record; for sessions also `gone`, or
-- `replaced 1` if another node has the stream, `replaced 0` if it is not known whether that belongs to a newer request.
local logs, nodes, retention, runs = require('logs'), require('nodes'), require('retention'), require('runs')
local token = ARGS[1]
local values, is_rolled_back, max_work = {}, false, work + $READ_BYTES

-- Returns why the log of a session is not read, or nil and the record if it is newer.
local function read_session (id, key, epoch, version)
  local current_epoch, current_version, owner, close_reason, principal, node_ids, is_newer = unpack(redis.call('HMGET', key, 'epoch', 'version', 'owner', 'closeReason', 'principal', 'nodes', 'isNewer'))
  if not current_epoch then return 'gone' end
  -- Redis has lost the epoch of the stream, so no other stream has replaced it.
  if tonumber(current_epoch) < tonumber(epoch) then return 'replaced 0' end
  if current_epoch ~= epoch or is_retry and owner ~= NODE_ID then return 'replaced ' .. (is_newer or '0') end
  if owner ~= NODE_ID then
    redis.call('HSET', key, 'owner', NODE_ID)
    current_version = redis.call('HINCRBY', key, 'version', 1)
  end
  nodes.add_self(key, node_ids)
  if close_reason then retention.set_ttl(key, $RESUME_TIMEOUT, true)
  else
    retention.set_deadline(id, principal, retention.STREAM_TIMEOUT)
    retention.set_ttl(key, $TTL)
  end
  return nil, current_version ~= version and read_record(key) or {}
end

local function read_run (id, has_readers)
  local record = runs.record(id)
  if record[1] then runs.add_node(id, 'nodes') end
  if record[1] and has_readers then runs.add_node(id, 'readerNodes') end
  return record
end

for i = 2, #ARGS, 7 do
  if work >= max_work then break end
  local kind, name, after, through, newest = ARGS[i], ARGS[i + 1], tonumber(ARGS[i + 2]), tonumber(ARGS[i + 3]), tonumber(ARGS[i + 4])
  local value
  if kind == 'unverified_session' then
    local current_version, node_ids = unpack(redis.call('HMGET', session_key(name), 'version', 'nodes'))
    if current_version then nodes.add_self(session_key(name), node_ids) end
    value = current_version or 'gone'
  elseif kind == 'unverified_run' then value = read_run(name)
  else
    local key = logs.key(kind, name)
    local problem, record
    if kind == 'session' then problem, record = read_session(name, key, ARGS[i + 5], ARGS[i + 6])
    elseif kind == 'run' then record = read_run(name, true)
    elseif kind == 'channel' then record = { redis.call('HGET', key, 'keep') } end
    if problem then value = problem
    else
      value = require('read_log')(key, after, through, math.max(max_work - work, 1))
      value[6] = record
      -- The node has an entry that does not exist any more. A channel or a run may have been removed with all its entries.
      if newest > rollback_position and newest > tonumber(value[2]) and (kind ~= 'channel' and kind ~= 'run' or redis.call('EXISTS', key) == 1) then
        is_rolled_back = is_rolled_back or #redis.call('XRANGE', key .. ':log', format_integer(newest), format_integer(newest)) == 0
      end
    end
  end
  values[#values + 1] = value
end
if is_rolled_back then require('rollback')() end
return marked_reply(token, values)
