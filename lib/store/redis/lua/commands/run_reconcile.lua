-- ARGS: ids of the runs that this node produces. Redis may have lost the ends of others: they end as `lost`. Returns 1.
local runs = require('runs')
-- The arguments lack the runs that were started after the first execution.
if is_retry then return 1 end
local producing = {}
for _, id in ipairs(ARGS) do producing[id] = true end
runs.end_lost(NODE_ID, producing)
return 1
