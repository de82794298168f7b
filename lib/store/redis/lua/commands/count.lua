-- ARGS: channel. Returns the number of its members.
return channels.count(unpack(redis.call('HMGET', channel_key(ARGS[1]), 'members', 'membersExpireAt')))
