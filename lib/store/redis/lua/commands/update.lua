-- ARGS: id, then name and JSON of each property; a property without JSON is removed.
-- Returns the new version of the session; UNKNOWN_VERSION for a retry; 0 if it is closed.
local id = ARGS[1]
local key = session_key(id)
local start_position, close_reason, owner, current_version = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version'))
if not start_position or close_reason then return 0 end
if is_retry then return $UNKNOWN_VERSION end
for i = 2, #ARGS, 2 do
  if ARGS[i + 1] == '' then redis.call('HDEL', key, 'd:' .. ARGS[i]) else redis.call('HSET', key, 'd:' .. ARGS[i], ARGS[i + 1]) end
end
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' and owner ~= NODE_ID then notify(owner, 'updated ' .. id .. ' ' .. version) end
return version
