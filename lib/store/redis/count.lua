-- channel. Answers with the number of its members.
return num(redis.call('HGET', channel(ARGS[1]), 'members'))
