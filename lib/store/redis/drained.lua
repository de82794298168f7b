-- id. Answers 1 when less than half of what the log may keep is unsent, as far as is known.
local id = ARGS[1]
local key = session(id)
local log = key .. ':log'
local known = redis.call('HMGET', key, 'cursor', 'endedBy', 'owner', 'last', 'trimmed', 'unsent')
local cursor, last, trimmed = num(known[1]), num(known[4]), num(known[5])
if not known[1] or known[2] or last <= cursor or redis.call('EXISTS', log) == 0 then return 1 end

local function measure (after, through)
  local count, bytes = 0, 0
  for _, entry in ipairs(redis.call('XRANGE', log, int(after + 1), int(through))) do
    count = count + 1
    bytes = bytes + #entry[2][2]
  end
  return count, bytes
end

-- What was between two positions when this was asked last is kept, so that each entry is looked at twice: as it comes, and as it goes.
local from, count, bytes = math.max(cursor, trimmed), nil, nil
local before = {}
for number in string.gmatch(known[6] or '', '%d+') do before[#before + 1] = tonumber(number) end
if before[1] and trimmed <= before[1] and from >= before[1] then
  local more, moreBytes = measure(before[2], last)
  local less, lessBytes = measure(before[1], from)
  count, bytes = before[3] + more - less, before[4] + moreBytes - lessBytes
else count, bytes = measure(from, last) end
redis.call('HSET', key, 'unsent', table.concat({ int(from), int(last), int(count), int(bytes) }, ' '))
if count * 2 < LOG.entries and bytes * 2 < LOG.bytes then return 1 end
-- It is asked for its cursor, for the next time.
if known[3] ~= '' then tell(known[3], 'q ' .. id) end
return 0
