-- Removes entries from logs, and records what was removed. In a module of its own, because most executions do not need it.
local log_removals = {}

-- Records that all entries up to a position are lost.
function log_removals.mark_trimmed (key, trimmed, reason)
  if trimmed > to_number(redis.call('HGET', key, 'trimmed')) then redis.call('HSET', key, 'trimmed', trimmed, 'trimReason', reason) end
end

-- Trims a log to its bounds. Not called for every entry, because the replicas of the nodes enforce the exact bounds.
function log_removals.trim (key, bounds, bytes, count, previous_last)
  local log, latest = key .. ':log', key .. ':latest'
  local length = redis.call('XLEN', log)
  if length == 1 and count > 1 then
    -- The Redis stream had expired by its TTL, so this entry is the only one.
    local id, fields = unpack(redis.call('XRANGE', log, '-', '+')[1])
    log_removals.mark_trimmed(key, previous_last, 'age')
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
  if trimmed then log_removals.mark_trimmed(key, trimmed, trim_reason) end
  -- The log is trimmed again after an eighth of `age`. (`age` is in milliseconds, NOW in microseconds.) The TTL is longer than `age`
  -- and an eighth, so that a log in use is trimmed and not removed.
  redis.call('HSET', key, 'bytes', bytes, 'count', length, 'nextTrimAt', NOW + bounds.age * 125)
  local ttl = math.ceil(bounds.age * 1.25) + 5000
  redis.call('PEXPIRE', log, ttl)
  redis.call('PEXPIRE', latest, ttl)
end

-- Records the position of the newest entry with a key, and removes the one that it replaces. Returns the size of that one, or nil.
function log_removals.replace (key, latest_key, entry_position)
  local log, latest = key .. ':log', key .. ':latest'
  local replaced = redis.call('HGET', latest, latest_key)
  local entry = replaced and redis.call('XRANGE', log, replaced, replaced)[1]
  redis.call('HSET', latest, latest_key, format_integer(entry_position))
  if not entry then
    -- The hash may be new. If the log is new, too, it has no TTL yet, and `logs.append` then calls `trim`, which sets both.
    redis.call('PEXPIRE', latest, math.max(redis.call('PTTL', log), 1))
    return nil
  end
  redis.call('XDEL', log, entry[1])
  redis.call('HDEL', key, 'backlogCache')
  return #entry[2][2]
end

return log_removals
