-- ARGS: id, the time until which the client may use the session, in milliseconds since 1970. A later time stays. Returns the new version
-- of the session; the negative version if there was nothing to change; UNKNOWN_VERSION for a retry; 0 if it is closed.
local id, authorized_until = ARGS[1], ARGS[2]
local key = session_key(id)
local start_position, close_reason, owner, current_version, current = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'authorizedUntil'))
if not start_position or close_reason then return 0 end
if is_retry then return $UNKNOWN_VERSION end
if to_number(current) >= tonumber(authorized_until) then return -tonumber(current_version) end
redis.call('HSET', key, 'authorizedUntil', authorized_until)
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' and owner ~= NODE_ID then notify(owner, 'updated ' .. id .. ' ' .. version) end
return version
