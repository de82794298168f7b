-- ARGS: kind of the log (s: session, c: channel, b: broadcasts, r: run), name, frame, id of the excluded session or ''.
-- Returns the position; 0 if the channel has no members, -1 if the session is closed, or if
-- the run has ended or belongs to another node.
local kind, name, frame, except = ARGS[1], ARGS[2], ARGS[3], ARGS[4]
if kind == 's' then
  local key = session_key(name)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'owner', 'closeReason', 'startPosition')
  local last, owner, close_reason, start_position = num(meta[1]), meta[5], meta[6], meta[7]
  if not start_position or close_reason then return -1 end
  if is_retry then return last end
  local entry_position = append(key, LOG, meta, frame, except)
  if owner ~= '' then notify(owner, 'entry ' .. name .. ' ' .. int(last) .. ' ' .. int(entry_position) .. '\n' .. frame) end
  return entry_position
end
if kind == 'r' then
  local key = runs.key(name)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'owner', 'outcome', 'followers')
  local last, owner, outcome, followers = num(meta[1]), meta[5], meta[6], meta[7]
  if owner ~= NODE or outcome then return -1 end
  if is_retry then return last end
  local entry_position = append(key, RUN_LOG, meta, frame, except)
  for node in string.gmatch(followers or '', '[^,]+') do
    notify(node, 'run_entry ' .. name .. ' ' .. int(last) .. ' ' .. int(entry_position) .. '\n' .. frame)
  end
  return entry_position
end
local key = kind == 'c' and channel_key(name) or P .. ':b'
local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'members')
local last, members = num(meta[1]), num(meta[5])
if kind == 'c' and members < 1 or is_retry then return 0 end
local entry_position = append(key, CHANNEL_LOG, meta, frame, except)
local text = 'entry ' .. int(last) .. ' ' .. int(entry_position) .. ' ' .. except .. '\n' .. frame
if kind == 'c' then redis.call('PUBLISH', P .. ':c:' .. name, text) else publish_all(text) end
return entry_position
