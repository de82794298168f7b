-- Reads the entries after the position `after`, up to and including `through`, until about `limit` bytes are read. Returns the newest
-- position of the log, up to which position it is trimmed and why, the entries, and whether there are more.
return function (key, after, through, limit)
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
