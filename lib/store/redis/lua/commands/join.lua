-- ARGS: id, channel. Returns the new version of the session; the negative version if there was
-- nothing to change; UNKNOWN_VERSION for a retry; 0 if it is closed.
local id, name = ARGS[1], ARGS[2]
local key = session_key(id)
local start_position, close_reason, owner, current_version, joined_at = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'm:' .. name))
if not start_position or close_reason then return 0 end
if is_retry then return UNKNOWN_VERSION end
if joined_at then return -tonumber(current_version) end
redis.call('HSET', key, 'm:' .. name, position)
-- If a channel with this name had entries before, Redis has removed them: all up to the current position count as lost.
if redis.call('HINCRBY', channel_key(name), 'members', 1) == 1 and redis.call('HEXISTS', channel_key(name), 'last') == 0 then
  redis.call('HSET', channel_key(name), 'trimmed', position, 'trimReason', 'age')
end
redis.call('PEXPIRE', channel_key(name), TTL)
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' then notify(owner, 'joined ' .. id .. ' ' .. version .. ' ' .. int(position) .. ' ' .. name) end
return version
