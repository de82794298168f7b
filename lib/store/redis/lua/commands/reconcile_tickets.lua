-- ARGS: number of the newest ticket of this node, names of its tickets that were not completed. Redis may have lost that others were
-- completed. Returns 1.
if is_retry then return 1 end
local key = KEY_PREFIX .. ':tickets:' .. NODE_ID
redis.call('DEL', key)
redis.call('HSET', key, 'last', ARGS[1])
for i = 2, #ARGS do redis.call('HSET', key, ARGS[i], 1) end
-- Messages that wait for others of this node may be next.
publish_all('queues_changed')
return 1
