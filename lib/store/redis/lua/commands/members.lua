-- ARGS: channel, the number of a join, how many members to return. Returns the ids of the members that have joined after it, each
-- with the number of its join.
return redis.call('ZRANGEBYSCORE', channel_key(ARGS[1]) .. ':members', '(' .. ARGS[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGS[3])
