-- ARGS: channel, the number of a join, how many members to return. Returns the ids of the members that have joined after it, each
-- with the number of its join.
local channels = require('channels')
local members = redis.call('ZRANGEBYSCORE', channel_key(ARGS[1]) .. ':members', '(' .. ARGS[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGS[3])
work = work + #members * 20
-- Redis may have removed sessions, by their TTL or because it was full, without their channels.
for i = 1, #members, 2 do
  if redis.call('EXISTS', session_key(members[i])) == 0 then channels.remove_member(ARGS[1], members[i]) end
end
return members
