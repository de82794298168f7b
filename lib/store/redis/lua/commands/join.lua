-- ARGS: id, channel, how many of the entries before the join to return, the id of the call (see modules/calls.lua),
-- whose result is `changed` or `full`.
-- Returns the new version of the session; the negative version if there was nothing to change; UNKNOWN_VERSION or -UNKNOWN_VERSION
-- for a retry; 0 if it is closed; `full` if it is in too many channels; and the result of `channels.read_history`.
local calls, channels = require('calls'), require('channels')
local id, name, count = ARGS[1], ARGS[2], tonumber(ARGS[3])
local key, channel = session_key(id), channel_key(name)
local start_position, close_reason, owner, current_version, channel_count, joined_at = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'channelCount', 'm:' .. name))

local function reply (version, through) return { version, channels.read_history(channel, id, count, through) } end

local result = is_retry and calls.find(ARGS[4])
local has_joined = result == 'changed'
if not has_joined and (not start_position or close_reason) then return { 0, 0, {} } end
if result == 'full' then return { 'full', 0, {} } end
-- If the session has left the channel since, the reply has no history.
if is_retry then return reply(has_joined and $UNKNOWN_VERSION or -$UNKNOWN_VERSION, to_number(joined_at)) end
if joined_at then return reply(-tonumber(current_version), tonumber(joined_at)) end
if to_number(channel_count) >= $MAX_CHANNELS_PER_SESSION then
  calls.record(ARGS[4], 'full')
  return { 'full', 0, {} }
end
redis.call('HSET', key, 'm:' .. name, position)
redis.call('HINCRBY', key, 'channelCount', 1)
local keep, last = unpack(redis.call('HMGET', channel, 'keep', 'last'))
if not channels.exists(channels.count(channel), keep, last) then channels.create(channel, last) end
redis.call('ZADD', channel .. ':members', redis.call('HINCRBY', channel, 'joins', 1), id)
channels.renew_members(channel)
channels.set_ttl(channel, keep)
calls.record(ARGS[4], 'changed')
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' then notify(owner, 'joined ' .. id .. ' ' .. version .. ' ' .. format_integer(position) .. ' ' .. name) end
return reply(version, position)
