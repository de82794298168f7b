-- ARGS: token, id. Makes this node the producer of a run that no node produces.
-- Returns a marked reply with the record of the run, with 1 as the seventh value if this command has restarted it.
local logs, runs = require('logs'), require('runs')
local token, id = unpack(ARGS)
local is_restarted = is_retry and redis.call('HGET', run_key(id), 'owner') == NODE_ID
-- Not for a retry: this node may have received the reply to the first execution already, and would not produce the run.
if not is_retry and redis.call('ZREM', runs.released, id) == 1 then
  is_restarted = true
  -- A position, so that it is unique also after Redis has lost data. The parentheses keep only the first result, the number.
  redis.call('HSET', run_key(id), 'owner', NODE_ID, 'term', (logs.next_position()))
  redis.call('ZADD', runs.producer_key(NODE_ID), position, id)
  redis.call('ZADD', runs.producers, 0, NODE_ID)
  runs.add_node(id, 'nodes')
end
local record = runs.record(id)
record[7] = is_restarted and 1 or 0
return marked_reply(token, record)
