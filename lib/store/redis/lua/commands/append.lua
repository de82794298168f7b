-- ARGS: kind of the log (s: session, c: channel, b: broadcasts, r: run), name, frame, id of the excluded session or '',
-- milliseconds for which to keep a channel or 0.
-- Returns the position; 0 if the channel has no members and is not kept, or for a retry, -1 if the session is closed, or if
-- the run has ended or belongs to another node.
local kind, name, frame, except = ARGS[1], ARGS[2], ARGS[3], ARGS[4]
if kind == 's' then return append_to_session(name, frame, except) end
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
local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'members', 'keep', 'membersExpireAt')
local last, keep, bounds = num(meta[1]), num(meta[6]), CHANNEL_LOG
if is_retry then return 0 end
if kind == 'c' then
  local members, new_keep = channels.count(meta[5], meta[7]), tonumber(ARGS[5])
  if not channels.exists(members, keep, last) then
    if new_keep == 0 then return 0 end
    channels.start(key, meta[1])
  end
  if new_keep > 0 and new_keep ~= keep then
    redis.call('HSET', key, 'keep', new_keep)
    if not meta[7] then redis.call('HSET', key, 'membersExpireAt', NOW + TTL * 1000) end
    -- Trims to the new bounds now.
    keep, meta[4] = new_keep, 0
  end
  bounds = channels.bounds(keep)
end
local entry_position = append(key, bounds, meta, frame, except)
if keep > 0 then channels.set_ttl(key, true) end
local text = int(last) .. ' ' .. int(entry_position) .. ' ' .. except .. '\n' .. frame
if kind == 'c' then redis.call('PUBLISH', P .. ':c:' .. name, int(keep) .. ' ' .. text) else publish_all('entry ' .. text) end
return entry_position
