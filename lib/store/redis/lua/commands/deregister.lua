-- Removes the registration of this node, and ends its runs: only runs that it was just starting are left. Returns 1.
local runs = require('runs')
if not runs.end_lost(NODE_ID) then redis.call('ZREM', runs.producers, NODE_ID) end
expire_node(NODE_ID)
return 1
