-- ARGS: id. Returns the record.
local key = session_key(ARGS[1])
local owner, users, start_position = unpack(redis.call('HMGET', key, 'owner', 'users', 'startPosition'))
if not start_position then return {} end
clear_dead_owner(key, owner)
add_user(key, users)
return redis.call('HGETALL', key)
