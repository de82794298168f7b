-- ARGS: id of an expired session. The onClose hooks of the app have run for it. Returns 1.
redis.call('ZREM', KEY_PREFIX .. ':unacked_expiries', ARGS[1])
redis.call('UNLINK', KEY_PREFIX .. ':e:' .. ARGS[1])
return 1
