-- Removes the registration of this node, and ends the runs that are left: those whose start was in progress when it closed. Returns 1.
local runs = require('runs')
runs.end_lost(NODE_ID)
require('nodes').expire(NODE_ID)
return 1
