-- ARGS: id, epoch of the stream, its cursor. Returns 1.
local key = session_key(ARGS[1])
if not is_retry and redis.call('HGET', key, 'epoch') == ARGS[2] then redis.call('HSET', key, 'cursor', ARGS[3]) end
return 1
