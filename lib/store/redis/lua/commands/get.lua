-- ARGS: id. Returns the record.
local nodes = require('nodes')
local key = session_key(ARGS[1])
local owner, node_ids, start_position = unpack(redis.call('HMGET', key, 'owner', 'nodes', 'startPosition'))
if not start_position then return {} end
nodes.clear_expired_owner(key, owner)
nodes.add_self(key, node_ids)
return read_record(key)
