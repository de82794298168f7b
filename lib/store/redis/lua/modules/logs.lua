-- A log is a Redis stream with its entries, and a hash with their number and size, the newest position, and what was trimmed.
-- The hash also has the other fields of a session, a channel or a run. The hash `:latest` has the position of the entry with each key.
local logs = {}

function logs.key (kind, name)
  if kind == 'session' then return session_key(name) end
  if kind == 'channel' then return channel_key(name) end
  if kind == 'run' then return run_key(name) end
  return KEY_PREFIX .. ':b'
end

-- Takes the next position. Returns it as a number and as text, so that it is formatted only once: formatting large numbers is slow.
function logs.next_position ()
  position = math.max(position + 1, NOW)
  local text = format_integer(position)
  store_changes.position = text
  return position, text
end

-- Appends an entry to a log. Returns its position, as a number and as text. `meta`: last, bytes, count, nextTrimAt. `latest_key`: the key of the entry, or ''.
function logs.append (key, bounds, meta, frame, except, latest_key)
  local log = key .. ':log'
  local bytes, count = to_number(meta[2]) + #frame, to_number(meta[3]) + 1
  local entry_position, text = logs.next_position()
  local id = text .. '-0'
  if latest_key ~= '' then
    redis.call('XADD', log, id, 'f', frame, 'x', except, 'k', latest_key)
    local replaced_bytes = require('log_removals').replace(key, latest_key, entry_position)
    if replaced_bytes then bytes, count = bytes - replaced_bytes, count - 1 end
  elseif except == '' then redis.call('XADD', log, id, 'f', frame)
  else redis.call('XADD', log, id, 'f', frame, 'x', except) end
  redis.call('HSET', key, 'last', text, 'bytes', bytes, 'count', count)
  if NOW > to_number(meta[4]) or count > bounds.entries * 1.1 or bytes > bounds.bytes * 1.1 then require('log_removals').trim(key, bounds, bytes, count, to_number(meta[1])) end
  return entry_position, text
end

-- Formats an entry for a publication, as `parseEntry` reads it. The positions are texts.
function logs.format_entry (prefix, last, entry_position, except, latest_key, frame)
  return prefix .. (last or '0') .. ' ' .. entry_position .. ' ' .. except .. ' ' .. latest_key .. '\n' .. frame
end

-- Appends an entry to the log of a session. Returns its position; -1 if the session is closed.
function logs.append_to_session (id, frame, latest_key)
  local key = session_key(id)
  local meta = redis.call('HMGET', key, 'last', 'bytes', 'count', 'nextTrimAt', 'owner', 'closeReason', 'startPosition')
  local last, owner, close_reason, start_position = meta[1], meta[5], meta[6], meta[7]
  if not start_position or close_reason then return -1 end
  if is_retry then return to_number(last) end
  local entry_position, text = logs.append(key, $LOG, meta, frame, '', latest_key)
  if owner ~= '' then notify(owner, logs.format_entry('entry ' .. id .. ' ', last, text, '', latest_key, frame)) end
  return entry_position
end

return logs
