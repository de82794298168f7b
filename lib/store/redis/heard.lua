-- id of a session that has expired. The app has heard of it.
redis.call('ZREM', P .. ':expired', ARGS[1])
redis.call('UNLINK', P .. ':e:' .. ARGS[1])
return 1
