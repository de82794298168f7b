-- Of each log its kind and name, the position up to which it is at hand, that of the newest entry at hand, and for the log of a
-- session the epoch of its stream here. Answers with the rest of each, with the version of a session, or with `false` where another
-- stream reads it now; the store's newest position, and `back`.
local answers = {}
local lost = false
for i = 1, #ARGS, 5 do
  local kind, name, after, newest = ARGS[i], ARGS[i + 1], tonumber(ARGS[i + 2]), tonumber(ARGS[i + 3])
  local key = kind == 's' and session(name) or kind == 'c' and channel(name) or P .. ':b'
  local log = entries(key, after)
  local replaced = false
  if kind == 's' then
    local record = redis.call('HMGET', key, 'epoch', 'version')
    replaced = (record[1] or '') ~= ARGS[i + 4]
    log[5] = record[2]
  end
  -- An entry that was given, and is not there any more. A channel may be over, with all that it had.
  if not replaced and newest > back and newest > tonumber(log[2]) and (kind ~= 'c' or redis.call('EXISTS', key) == 1) then
    lost = lost or #redis.call('XRANGE', key .. ':log', int(newest), int(newest)) == 0
  end
  answers[#answers + 1] = not replaced and log
end
if lost then goneBack() end
tell(NODE, 'm ' .. int(pos))
return { answers, int(pos), int(back) }
