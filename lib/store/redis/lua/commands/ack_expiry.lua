-- ARGS: id of an expired session. The onClose hooks of the app have run for it. Returns 1.
redis.call('ZREM', P .. ':expired', ARGS[1])
redis.call('UNLINK', P .. ':e:' .. ARGS[1])
return 1
