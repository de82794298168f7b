-- id, and the position up to which the log is at hand. Answers with the record, the rest of the log, the store's newest position and `back`.
local id, after = ARGS[1], tonumber(ARGS[2])
local key = session(id)
local known = redis.call('HMGET', key, 'owner', 'endedBy', 'principal', 'openedAt')
if not known[4] then return false end
-- Asked for again, it takes nothing back from the node that has it by now.
if not again or known[1] == '' then
  local epoch = redis.call('HINCRBY', key, 'epoch', 1)
  redis.call('HINCRBY', key, 'version', 1)
  redis.call('HSET', key, 'owner', NODE)
  if known[1] ~= '' and known[1] ~= NODE then tell(known[1], 'r ' .. id .. ' ' .. epoch) end
end
if not known[2] then
  wait(id, known[3], RESUME * 1.25)
  keep(key, TTL)
end
-- Says behind what, among all that this node is told, the answer comes.
tell(NODE, 'm ' .. int(pos))
return { redis.call('HGETALL', key), entries(key, after), int(pos), int(back) }
