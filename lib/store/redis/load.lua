-- id, and whether this node is to be told behind what, among all that it is told, the answer comes. Answers with the record and the position.
enter()
disown(session(ARGV[ARGS + 1]))
if ARGV[ARGS + 2] == '1' then tell(NODE, 'm ' .. int(pos)) end
return { redis.call('HGETALL', session(ARGV[ARGS + 1])), int(pos) }
