-- ARGS:
--   kind of the log: `session`, `channel`, `broadcasts` or `run`
--   name or id
--   frame
--   ids of the excluded sessions, separated by commas
--   for a channel, the milliseconds for which to keep the entries (default: 0); for a run, the term
--   key of the entry (default: ''); not for a run
-- Returns the position; 0 if the channel has no members and is not kept, or for a retry of an entry of a channel or of broadcasts; -1 if
-- the session is closed; `run_over` if the run has ended or was restarted; `session_over` if the run delivers items to a session that
-- is closed.
local logs = require('logs')
local kind, name, frame, except, latest_key = ARGS[1], ARGS[2], ARGS[3], ARGS[4], ARGS[6] or ''
if kind == 'session' then return logs.append_to_session(name, frame, latest_key) end
if kind == 'run' then
  local key = run_key(name)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'owner', 'outcome', 'readerNodes', 'session', 'term')
  local last, owner, outcome, reader_nodes, session, term = meta[1], meta[5], meta[6], meta[7], meta[8], meta[9]
  if owner ~= NODE_ID or outcome or (term or '0') ~= ARGS[5] then return 'run_over' end
  if session then
    local entry_position = logs.append_to_session(session, frame, '')
    return entry_position == -1 and 'session_over' or entry_position
  end
  if is_retry then return to_number(last) end
  local entry_position, text = logs.append(key, $RUN_LOG, meta, frame, except, '')
  for node in string.gmatch(reader_nodes or '', '[^,]+') do
    notify(node, logs.format_entry('run_entry ' .. name .. ' ', last, text, '', '', frame))
  end
  return entry_position
end
local key = logs.key(kind, name)
local channels = kind == 'channel' and require('channels')
local last, bytes, count, next_trim_at, keep = unpack(redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'keep'))
local bounds = $CHANNEL_LOG
keep = to_number(keep)
if is_retry then return 0 end
if kind == 'channel' then
  local new_keep = to_number(ARGS[5])
  if not channels.exists(channels.count(key), keep, last) then
    if new_keep == 0 then return 0 end
    channels.create(key, last)
    keep = 0
  end
  if new_keep > 0 and new_keep ~= keep then
    redis.call('HSET', key, 'keep', new_keep)
    -- Trims to the new bounds now.
    keep, next_trim_at = new_keep, 0
  end
  bounds = channels.bounds(keep)
end
local entry_position, text = logs.append(key, bounds, { last, bytes, count, next_trim_at }, frame, except, latest_key)
if keep > 0 then channels.set_ttl(key, true) end
if kind == 'channel' then redis.call($PUBLISH, KEY_PREFIX .. ':c:' .. name, logs.format_entry(format_integer(keep) .. ' ', last, text, except, latest_key, frame))
else publish_all(logs.format_entry('entry ', last, text, except, latest_key, frame)) end
return entry_position
