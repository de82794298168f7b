-- ARGS: id. Removes the run of a delivery whose start has failed, without an entry for its end, because its message is handled
-- again. Returns 1.
local runs = require('runs')
if redis.call('HGET', run_key(ARGS[1]), 'owner') == NODE_ID then
  redis.call('ZREM', runs.producer_key(NODE_ID), ARGS[1])
  runs.remove(ARGS[1])
end
return 1
