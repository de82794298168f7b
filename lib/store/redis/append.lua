-- kind (session, channel or broadcast), name, frame, except. Answers with the position; 0 where nobody reads, -1 where the session is over.
local kind, name, frame, except = ARGS[1], ARGS[2], ARGS[3], ARGS[4]
if kind == 's' then
  local key = session(name)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'due', 'owner', 'endedBy', 'openedAt')
  if not meta[7] or meta[6] then return -1 end
  if again then return num(meta[1]) end
  local position = append(key, LOG, meta, frame, except)
  if meta[5] ~= '' then tell(meta[5], 's ' .. name .. ' ' .. int(num(meta[1])) .. ' ' .. int(position) .. '\n' .. frame) end
  return position
end
local key = kind == 'c' and channel(name) or P .. ':b'
local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'due', 'members')
if kind == 'c' and num(meta[5]) < 1 or again then return 0 end
local position = append(key, CHANNEL_LOG, meta, frame, except)
local text = 'b ' .. int(num(meta[1])) .. ' ' .. int(position) .. ' ' .. except .. '\n' .. frame
if kind == 'c' then redis.call('PUBLISH', P .. ':c:' .. name, text) else announce(text) end
return position
