-- id. Answers 1 when less than half of what the log may keep is unsent, as far as is known.
local id = ARGS[1]
local key = session(id)
local known = redis.call('HMGET', key, 'cursor', 'endedBy', 'owner', 'last')
if not known[1] or known[2] then return 1 end
if num(known[4]) <= tonumber(known[1]) then return 1 end
local count, bytes = 0, 0
for _, entry in ipairs(redis.call('XRANGE', key .. ':log', int(tonumber(known[1]) + 1), '+')) do
  count = count + 1
  bytes = bytes + #entry[2][2]
end
if count * 2 < LOG.entries and bytes * 2 < LOG.bytes then return 1 end
-- It is asked for its cursor, for the next time.
if known[3] ~= '' then tell(known[3], 'q ' .. id) end
return 0
