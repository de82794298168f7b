-- Removes the registration of this node, and ends its runs: only runs that it was just starting are left. Returns 1.
local runs = require('runs')
runs.end_lost(NODE_ID)
expire_node(NODE_ID)
return 1
