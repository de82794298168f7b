-- id, epoch and cursor of its stream.
local key = session(ARGS[1])
if not again and redis.call('HGET', key, 'epoch') == ARGS[2] then redis.call('HSET', key, 'cursor', ARGS[3]) end
return 1
