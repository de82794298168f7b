-- ARGS: id, channel, how many of the entries before the join to return.
-- Returns the new version of the session; the negative version if there was nothing to change; UNKNOWN_VERSION for a retry; 0
-- if it is closed; and the result of `channels.read_history`.
local id, name, count = ARGS[1], ARGS[2], tonumber(ARGS[3])
local key, channel = session_key(id), channel_key(name)
local start_position, close_reason, owner, current_version, joined_at = unpack(redis.call('HMGET', key, 'startPosition', 'closeReason', 'owner', 'version', 'm:' .. name))

local function reply (version, through) return { version, channels.read_history(channel, id, count, through) } end

if not start_position or close_reason then return { 0, 0, {} } end
-- If the session has left the channel since, there is no history before its membership.
if is_retry then return reply(UNKNOWN_VERSION, to_number(joined_at)) end
if joined_at then return reply(-tonumber(current_version), tonumber(joined_at)) end
redis.call('HSET', key, 'm:' .. name, position)
local members, expire_at, keep, last = unpack(redis.call('HMGET', channel, 'members', 'membersExpireAt', 'keep', 'last'))
members = channels.count(members, expire_at)
if not channels.exists(members, keep, last) then channels.create(channel, last) end
redis.call('HSET', channel, 'members', members + 1)
if keep then redis.call('HSET', channel, 'membersExpireAt', NOW + TTL * 1000) end
channels.set_ttl(channel, keep)
local version = redis.call('HINCRBY', key, 'version', 1)
if owner ~= '' then notify(owner, 'joined ' .. id .. ' ' .. version .. ' ' .. format_integer(position) .. ' ' .. name) end
return reply(version, position)
