-- ARGS: id. Returns the record.
local key = session_key(ARGS[1])
local owner, nodes, start_position = unpack(redis.call('HMGET', key, 'owner', 'nodes', 'startPosition'))
if not start_position then return {} end
clear_expired_owner(key, owner)
add_node(key, nodes)
return read_record(key)
