-- ARGS: id. Returns 1 if less than half of what the log may keep is unsent, as far as is known; otherwise 0.
local id = ARGS[1]
local key = session_key(id)
local log = key .. ':log'
local cursor, close_reason, owner, last, trimmed, cache = unpack(redis.call('HMGET', key, 'cursor', 'closeReason', 'owner', 'last', 'trimmed', 'backlogCache'))
if not cursor or close_reason then return 1 end
cursor, last, trimmed = to_number(cursor), to_number(last), to_number(trimmed)
if last <= cursor or redis.call('EXISTS', log) == 0 then return 1 end

local function measure (after, through)
  local count, bytes = 0, 0
  for _, entry in ipairs(redis.call('XRANGE', log, format_integer(after + 1), format_integer(through))) do
    count = count + 1
    bytes = bytes + #entry[2][2]
    work = work + #entry[2][2] + 60
  end
  return count, bytes
end

-- `backlogCache` has the last measured range, so that each entry is read at most twice: when the range is extended, and when it
-- becomes shorter.
local from = math.max(cursor, trimmed)
local count, bytes
local cached_from, cached_to, cached_count, cached_bytes = string.match(cache or '', '^(%d+) (%d+) (%d+) (%d+)$')
if cached_from and trimmed <= tonumber(cached_from) and from >= tonumber(cached_from) then
  local added_count, added_bytes = measure(tonumber(cached_to), last)
  local removed_count, removed_bytes = measure(tonumber(cached_from), from)
  count, bytes = cached_count + added_count - removed_count, cached_bytes + added_bytes - removed_bytes
else count, bytes = measure(from, last) end
redis.call('HSET', key, 'backlogCache', table.concat({ format_integer(from), format_integer(last), format_integer(count), format_integer(bytes) }, ' '))
if count * 2 < $LOG.entries and bytes * 2 < $LOG.bytes then return 1 end
-- The owner commits its cursor, for the next check.
if owner ~= '' then notify(owner, 'cursor_request ' .. id) end
return 0
