-- channel. Answers with the number of its members.
enter()
return num(redis.call('HGET', channel(ARGV[ARGS + 1]), 'members'))
