-- Ends the runs of this node, of which only those are left that it was just starting, and its registration. Returns 1.
local runs = require('runs')
if not runs.end_lost(NODE_ID) then redis.call('ZREM', runs.producers, NODE_ID) end
expire_node(NODE_ID)
return 1
