-- ARGS: ids of the runs that this node produces. The others that Redis has for it are lost: Redis has lost their ends. Returns 1.
-- Runs that were started since are not among the arguments of a retry.
if is_retry then return 1 end
local producing = {}
for _, id in ipairs(ARGS) do producing[id] = true end
runs.lose(NODE, producing)
return 1
