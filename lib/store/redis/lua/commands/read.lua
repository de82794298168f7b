-- ARGS: token, then for each item: kind (s: session with a stream on this node, c: channel, b: broadcasts, r: run with
-- readers on this node, u: session that this node uses, v: run that it uses), name, position after which to read, position up
-- to which to read, position of the newest entry that the node has or 0, epoch of the stream, version of the record that the
-- node has.
-- Returns the inbox number, the newest position, the rollback position, and a value for each item, up to the last one that
-- the byte limit allows: for a log the result of read_log, with the record of a session as its sixth value if it is newer, that
-- of a run, or how long the entries of a channel are kept; for `u` the version; for `v` the record; `gone`, `replaced`, or `taken` if
-- the request of the new owner may be older.
local token = ARGS[1]
local values, lost, budget = {}, false, READ_BYTES

local function read_session (id, key, epoch, version)
  local current_epoch, current_version, owner, close_reason, principal, users, is_newer = unpack(redis.call('HMGET', key, 'epoch', 'version', 'owner', 'closeReason', 'principal', 'users', 'isNewer'))
  if not current_epoch then return 'gone' end
  if current_epoch ~= epoch or is_retry and owner ~= NODE then return is_newer == '0' and 'taken' or 'replaced' end
  if owner ~= NODE then redis.call('HSET', key, 'owner', NODE) end
  add_user(key, users)
  if close_reason then set_ttl(key, RESUME_TIMEOUT, true)
  else
    set_deadline(id, principal, RESUME_TIMEOUT * 1.25)
    set_ttl(key, TTL)
  end
  return nil, current_version ~= version and redis.call('HGETALL', key) or {}
end

local function read_run (id, has_readers)
  local record = runs.record(id)
  if record[1] then runs.add_user(id, 'users') end
  if record[1] and has_readers then runs.add_user(id, 'followers') end
  return record
end

for i = 2, #ARGS, 7 do
  if budget <= 0 then break end
  local kind, name, after, through, newest = ARGS[i], ARGS[i + 1], tonumber(ARGS[i + 2]), tonumber(ARGS[i + 3]), tonumber(ARGS[i + 4])
  local value
  if kind == 'u' then
    local current_version, users = unpack(redis.call('HMGET', session_key(name), 'version', 'users'))
    if current_version then add_user(session_key(name), users) end
    value = current_version or 'gone'
  elseif kind == 'v' then value = read_run(name)
  else
    local key = kind == 's' and session_key(name) or kind == 'c' and channel_key(name) or kind == 'r' and runs.key(name) or P .. ':b'
    local problem, record
    if kind == 's' then problem, record = read_session(name, key, ARGS[i + 5], ARGS[i + 6])
    elseif kind == 'r' then record = read_run(name, true)
    elseif kind == 'c' then record = { redis.call('HGET', key, 'keep') } end
    if problem then value = problem
    else
      local bytes
      value, bytes = read_log(key, after, through, budget)
      value[6] = record
      budget = budget - bytes
      -- The node has an entry that does not exist any more. A channel or a run may have been removed with all its entries.
      if newest > rollback_position and newest > tonumber(value[2]) and (kind ~= 'c' and kind ~= 'r' or redis.call('EXISTS', key) == 1) then
        lost = lost or #redis.call('XRANGE', key .. ':log', int(newest), int(newest)) == 0
      end
    end
  end
  values[#values + 1] = value
end
if lost then rollback() end
return { mark_reply(token), int(position), int(rollback_position), values }
