-- ARGS: number of the newest ticket of this node, names of its tickets that were not completed, with a comma before and after each.
-- Redis may have lost that others were completed. Returns 1.
if is_retry then return 1 end
redis.call('HSET', KEY_PREFIX .. ':tickets:' .. NODE_ID, 'lastNumber', ARGS[1], 'names', ARGS[2])
-- Messages that wait for a message of this node may be next now.
publish_all('queues_changed')
return 1
