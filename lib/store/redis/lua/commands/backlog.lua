-- ARGS: id. Returns 1 if less than half of what the log may keep is unsent, as far as is known; otherwise 0.
local id = ARGS[1]
local key = session_key(id)
local log = key .. ':log'
local cursor, close_reason, owner, last, trimmed, cache = unpack(redis.call('HMGET', key, 'cursor', 'closeReason', 'owner', 'last', 'trimmed', 'backlogCache'))
if not cursor or close_reason then return 1 end
cursor, last, trimmed = num(cursor), num(last), num(trimmed)
if last <= cursor or redis.call('EXISTS', log) == 0 then return 1 end

local function measure (after, through)
  local count, bytes = 0, 0
  for _, entry in ipairs(redis.call('XRANGE', log, int(after + 1), int(through))) do
    count = count + 1
    bytes = bytes + #entry[2][2]
  end
  return count, bytes
end

-- The last measured range is cached, so that each entry is read twice at most: when it is added to the range, and when it leaves it.
local from, count, bytes = math.max(cursor, trimmed), nil, nil
local before = {}
for number in string.gmatch(cache or '', '%d+') do before[#before + 1] = tonumber(number) end
if before[1] and trimmed <= before[1] and from >= before[1] then
  local more, moreBytes = measure(before[2], last)
  local less, lessBytes = measure(before[1], from)
  count, bytes = before[3] + more - less, before[4] + moreBytes - lessBytes
else count, bytes = measure(from, last) end
redis.call('HSET', key, 'backlogCache', table.concat({ int(from), int(last), int(count), int(bytes) }, ' '))
if count * 2 < LOG.entries and bytes * 2 < LOG.bytes then return 1 end
-- The owner commits its cursor, for the next check.
if owner ~= '' then notify(owner, 'progress ' .. id) end
return 0
