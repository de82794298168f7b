-- ARGS: id. Returns the record.
local key = session_key(ARGS[1])
local record = redis.call('HMGET', key, 'owner', 'users', 'startPosition')
if not record[3] then return {} end
clear_dead_owner(key, record[1])
add_user(key, record[2])
return redis.call('HGETALL', key)
