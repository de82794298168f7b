-- ARGS: id. Lets another node restart a run that this node produces. Returns 1.
local runs = require('runs')
-- After the first execution, this node may have restarted the run.
if is_retry then return 1 end
local owner, outcome = unpack(redis.call('HMGET', run_key(ARGS[1]), 'owner', 'outcome'))
if owner == NODE_ID and not outcome then runs.release(ARGS[1], NODE_ID) end
return 1
