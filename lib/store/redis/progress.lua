-- id, epoch and cursor of its stream.
enter()
local key = session(ARGV[ARGS + 1])
if redis.call('HGET', key, 'epoch') == ARGV[ARGS + 2] then redis.call('HSET', key, 'cursor', ARGV[ARGS + 3]) end
return 1
