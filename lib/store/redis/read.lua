-- Kind, name and newest position at hand, of each log. Answers with the rest of each, the store's newest position, `back`, and the time.
enter()
local answers = {}
local lost = false
for i = ARGS + 1, #ARGV, 3 do
  local kind, name, after = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = kind == 's' and session(name) or kind == 'c' and channel(name) or P .. ':b'
  local log = entries(key, after)
  -- A position that was given, and is not known any more.
  if after > back and after > tonumber(log[2]) then
    lost = lost or tonumber(log[1]) < after or #redis.call('XRANGE', key .. ':log', int(after), int(after)) == 0
  end
  answers[#answers + 1] = log
end
if lost then goneBack() end
tell(NODE, 'm ' .. int(pos))
return { answers, int(pos), int(back), int(NOW) }
