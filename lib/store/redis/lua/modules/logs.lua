-- A log is a Redis stream with its entries, and a hash with their number and size, the newest position, and what was trimmed.
-- The hash also has the other fields of a session, a channel or a run. The hash `:latest` has the position of the entry with each key.
local logs = {}

function logs.key (kind, name)
  if kind == 'session' then return session_key(name) end
  if kind == 'channel' then return channel_key(name) end
  if kind == 'run' then return run_key(name) end
  return KEY_PREFIX .. ':b'
end

function logs.next_position ()
  position = math.max(position + 1, NOW)
  store_changes.position = position
  return position
end

-- Records that all entries up to a position are lost.
function logs.mark_trimmed (key, trimmed, reason)
  if trimmed > to_number(redis.call('HGET', key, 'trimmed')) then redis.call('HSET', key, 'trimmed', trimmed, 'trimReason', reason) end
end

-- Trims a log to its bounds. Not called for every entry, because the replicas of the nodes enforce the exact bounds.
local function trim (key, bounds, bytes, count, previous_last)
  local log, latest = key .. ':log', key .. ':latest'
  local length = redis.call('XLEN', log)
  if length == 1 and count > 1 then
    -- The Redis stream had expired by its TTL, so this entry is the only one.
    local id, fields = unpack(redis.call('XRANGE', log, '-', '+')[1])
    logs.mark_trimmed(key, previous_last, 'age')
    redis.call('UNLINK', latest)
    if fields[6] then redis.call('HSET', latest, fields[6], string.match(id, '^%d+')) end
    bytes = #fields[2]
  end
  local oldest = NOW - bounds.age * 1000
  local trimmed, trim_reason
  local exceeds = true
  -- About 64 kB at a time, because most of a log with large entries stays.
  local chunk = math.min(math.max(math.ceil(65536 * length / bytes), 1), 64)
  while exceeds and length > 0 do
    for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', chunk)) do
      local entry_position = tonumber(string.match(entry[1], '^%d+'))
      local reason = length > bounds.entries and 'count' or bytes > bounds.bytes and 'bytes' or entry_position < oldest and 'age'
      exceeds = reason ~= false
      if not exceeds then break end
      bytes = bytes - #entry[2][2]
      length = length - 1
      trimmed, trim_reason = entry_position, reason
      if entry[2][6] then redis.call('HDEL', latest, entry[2][6]) end
    end
    if trimmed then redis.call('XTRIM', log, 'MINID', format_integer(trimmed + 1)) end
  end
  if trimmed then logs.mark_trimmed(key, trimmed, trim_reason) end
  -- The log is trimmed again after an eighth of `age`. (`age` is in milliseconds, NOW in microseconds.) The TTL is longer than `age`
  -- and an eighth, so that a log in use is trimmed and not removed.
  redis.call('HSET', key, 'bytes', bytes, 'count', length, 'nextTrimAt', NOW + bounds.age * 125)
  local ttl = math.ceil(bounds.age * 1.25) + 5000
  redis.call('PEXPIRE', log, ttl)
  redis.call('PEXPIRE', latest, ttl)
end

-- Records the position of the newest entry with a key, and removes the one that it replaces. Returns the size of that one, or nil.
local function replace (key, latest_key, entry_position)
  local log, latest = key .. ':log', key .. ':latest'
  local replaced = redis.call('HGET', latest, latest_key)
  local entry = replaced and redis.call('XRANGE', log, replaced, replaced)[1]
  redis.call('HSET', latest, latest_key, format_integer(entry_position))
  if not entry then
    -- The hash may be new. If the log is new, too, it has no TTL yet, and `trim`, which follows, sets both.
    redis.call('PEXPIRE', latest, math.max(redis.call('PTTL', log), 1))
    return nil
  end
  redis.call('XDEL', log, entry[1])
  redis.call('HDEL', key, 'backlogCache')
  return #entry[2][2]
end

-- Appends an entry to a log. Returns its position, as a number and as text, because Redis takes long to format large numbers.
-- `meta`: last, bytes, count, nextTrimAt. `latest_key`: the key of the entry, or ''.
function logs.append (key, bounds, meta, frame, except, latest_key)
  local log = key .. ':log'
  local bytes, count = to_number(meta[2]) + #frame, to_number(meta[3]) + 1
  local entry_position = logs.next_position()
  local text = format_integer(entry_position)
  local id = text .. '-0'
  if latest_key ~= '' then
    redis.call('XADD', log, id, 'f', frame, 'x', except, 'k', latest_key)
    local replaced_bytes = replace(key, latest_key, entry_position)
    if replaced_bytes then bytes, count = bytes - replaced_bytes, count - 1 end
  elseif except == '' then redis.call('XADD', log, id, 'f', frame)
  else redis.call('XADD', log, id, 'f', frame, 'x', except) end
  redis.call('HSET', key, 'last', text, 'bytes', bytes, 'count', count)
  if NOW > to_number(meta[4]) or count > bounds.entries * 1.1 or bytes > bounds.bytes * 1.1 then trim(key, bounds, bytes, count, to_number(meta[1])) end
  return entry_position, text
end

-- Formats an entry for a publication, as `parseEntry` reads it. The positions are texts.
function logs.format_entry (prefix, last, entry_position, except, latest_key, frame)
  return prefix .. (last or '0') .. ' ' .. entry_position .. ' ' .. except .. ' ' .. latest_key .. '\n' .. frame
end

-- Appends an entry to the log of a session. Returns its position; -1 if the session is closed.
function logs.append_to_session (id, frame, latest_key)
  local key = session_key(id)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'owner', 'closeReason', 'startPosition')
  local last, owner, close_reason, start_position = meta[1], meta[5], meta[6], meta[7]
  if not start_position or close_reason then return -1 end
  if is_retry then return to_number(last) end
  local entry_position, text = logs.append(key, LOG, meta, frame, '', latest_key)
  if owner ~= '' then notify(owner, logs.format_entry('entry ' .. id .. ' ', last, text, '', latest_key, frame)) end
  return entry_position
end

-- Reads the entries of a log after a position, up to another one, until about `limit` bytes are read. Returns the newest
-- position of the log, up to which position it is trimmed and why, the entries, and whether there are more.
function logs.read (key, after, through, limit)
  local last, trimmed, reason = unpack(redis.call('HMGET', key, 'last', 'trimmed', 'trimReason'))
  last, trimmed, reason = to_number(last), to_number(trimmed), reason or 'count'
  local list, bytes, has_more = {}, 0, last > after and through > after
  local from, to = after, through < 9e15 and format_integer(through) or '+'
  while has_more and bytes < limit do
    local chunk = redis.call('XRANGE', key .. ':log', format_integer(from + 1), to, 'COUNT', 32)
    for _, entry in ipairs(chunk) do
      list[#list + 1] = entry
      bytes = bytes + #entry[2][2] + 60
      from = tonumber(string.match(entry[1], '^%d+'))
    end
    has_more = #chunk == 32
  end
  work = work + bytes
  if last > trimmed and redis.call('EXISTS', key .. ':log') == 0 then trimmed, reason = last, 'age' end
  return { format_integer(last), format_integer(trimmed), reason, list, has_more and 1 or 0 }
end

return logs
