-- ARGS: principal. Returns the ids of its open sessions.
return redis.call('ZRANGEBYSCORE', KEY_PREFIX .. ':p:' .. ARGS[1], '-inf', '+inf')
