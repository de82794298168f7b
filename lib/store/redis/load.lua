-- id, and whether this node is to be told behind what, among all that it is told, the answer comes. Answers with the record and the position.
local key = session(ARGS[1])
disown(key, redis.call('HGET', key, 'owner'))
if ARGS[2] == '1' then tell(NODE, 'm ' .. int(pos)) end
return { redis.call('HGETALL', key), int(pos) }
