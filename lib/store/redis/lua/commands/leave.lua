-- ARGS: id, channel, the id of the call (see modules/calls.lua), whose result is `changed`.
-- Returns the new version of the session; the negative version if there was nothing to change; UNKNOWN_VERSION or -UNKNOWN_VERSION for a retry; 0 if it is closed.
local calls, channels = require('calls'), require('channels')
local id, name = ARGS[1], ARGS[2]
local key = session_key(id)
local start_position, close_reason, owner, current_version, joined_at = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'm:' .. name))
if is_retry and calls.find(ARGS[3]) then return $UNKNOWN_VERSION end
if not start_position or close_reason then return 0 end
if is_retry then return -$UNKNOWN_VERSION end
if not joined_at then return -tonumber(current_version) end
redis.call('HDEL', key, 'm:' .. name)
redis.call('HINCRBY', key, 'channelCount', -1)
local to = to_number(redis.call('HGET', channel_key(name), 'last'))
-- It still reads what was appended while it was a member.
if to > tonumber(joined_at) then
  redis.call('HSET', key, 'l:' .. format_integer(to) .. ':' .. name, joined_at)
  local ranges = channels.unread_ranges(key)
  if #ranges > 100 then channels.drop_range(key, ranges[1], 'count') end
end
channels.remove_member(name, id)
calls.record(ARGS[3], 'changed')
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' then notify(owner, 'left ' .. id .. ' ' .. version .. ' ' .. format_integer(to) .. ' ' .. name) end
return version
