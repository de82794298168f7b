-- Logs: a hash with what there is to know of one, and a stream of its entries.

local function take ()
  pos = math.max(pos + 1, NOW)
  changes.pos = pos
  return pos
end

-- Trims a log to its bounds. Called now and then, not with every entry: readers keep to the bounds by themselves.
local function trim (key, bounds, bytes, last)
  local log = key .. ':log'
  local length = redis.call('XLEN', log)
  if length == 1 and last > 0 then
    -- The others have expired, as a whole.
    redis.call('HSET', key, 'trimmed', last, 'by', 'age')
    bytes = #redis.call('XRANGE', log, '-', '+')[1][2][2]
  end
  local low = NOW - bounds.age * 1000
  local trimmed, by
  local over = true
  while over and length > 0 do
    for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 64)) do
      local position = tonumber(string.match(entry[1], '^%d+'))
      local reason = length > bounds.entries and 'count' or bytes > bounds.bytes and 'bytes' or position < low and 'age'
      over = reason ~= false
      if not over then break end
      bytes = bytes - #entry[2][2]
      length = length - 1
      trimmed, by = position, reason
    end
    if trimmed then redis.call('XTRIM', log, 'MINID', int(trimmed + 1)) end
  end
  if trimmed then redis.call('HSET', key, 'trimmed', trimmed, 'by', by) end
  redis.call('HSET', key, 'bytes', bytes, 'count', length, 'due', NOW + bounds.age * 125)
  redis.call('PEXPIRE', log, math.ceil(bounds.age * 1.25) + 5000)
end

-- Adds an entry to a log, whose newest was `last`, and answers with its position.
local function append (key, bounds, meta, frame, except)
  local log = key .. ':log'
  local last, bytes, count = num(meta[1]), num(meta[2]) + #frame, num(meta[3]) + 1
  local position = take()
  if except == '' then redis.call('XADD', log, int(position) .. '-0', 'f', frame)
  else redis.call('XADD', log, int(position) .. '-0', 'f', frame, 'x', except) end
  redis.call('HSET', key, 'last', position, 'bytes', bytes, 'count', count)
  if NOW > num(meta[4]) or count > bounds.entries * 1.1 or bytes > bounds.bytes * 1.1 then trim(key, bounds, bytes, last) end
  return position
end

-- What a log has after a position: its newest position, how far it is trimmed and why, and the entries.
local function entries (key, after)
  local meta = redis.call('HMGET', key, 'last', 'trimmed', 'by')
  local last, trimmed, by = num(meta[1]), num(meta[2]), meta[3] or 'count'
  local list = {}
  if last > after then list = redis.call('XRANGE', key .. ':log', int(after + 1), '+') end
  if last > trimmed and redis.call('EXISTS', key .. ':log') == 0 then trimmed, by = last, 'age' end
  return { int(last), int(trimmed), by, list }
end
