-- The tickets of this node that were not completed, sent in parts. Redis may have lost that others were completed.
-- ARGS: whether it is the first part, the number of the newest ticket of this node in the last part or '', names of the tickets.
-- Returns 1.
if is_retry then return 1 end
local key = KEY_PREFIX .. ':tickets:' .. NODE_ID
if ARGS[1] == '1' then redis.call('DEL', key) end
for i = 3, #ARGS do redis.call('HSET', key, ARGS[i], 1) end
-- Until `last` is known, all tickets count as valid.
if ARGS[2] == '' then return 1 end
redis.call('HSET', key, 'last', ARGS[2])
-- Messages that wait for others of this node may be next.
publish_all('queues_changed')
return 1
