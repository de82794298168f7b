-- id. Answers with the record.
enter()
disown(session(ARGV[ARGS + 1]))
return redis.call('HGETALL', session(ARGV[ARGS + 1]))
