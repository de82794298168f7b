-- ARGS: channel. Returns the number of its members.
return num(redis.call('HGET', channel_key(ARGS[1]), 'members'))
