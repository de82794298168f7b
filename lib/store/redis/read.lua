-- Kind, name, newest position at hand, and for the log of a session the epoch of its stream here, of each log. Answers with the
-- rest of each, with the version of a session, or with `false` where another stream reads it now; the store's newest position, and `back`.
enter()
local answers = {}
local lost = false
for i = ARGS + 1, #ARGV, 4 do
  local kind, name, after = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = kind == 's' and session(name) or kind == 'c' and channel(name) or P .. ':b'
  local log = entries(key, after)
  local replaced = false
  if kind == 's' then
    local record = redis.call('HMGET', key, 'epoch', 'version')
    replaced = (record[1] or '') ~= ARGV[i + 3]
    log[5] = record[2]
  end
  -- A position that was given, and is not known any more.
  if after > back and after > tonumber(log[2]) then
    lost = lost or tonumber(log[1]) < after or #redis.call('XRANGE', key .. ':log', int(after), int(after)) == 0
  end
  answers[#answers + 1] = not replaced and log
end
if lost then goneBack() end
tell(NODE, 'm ' .. int(pos))
return { answers, int(pos), int(back) }
