-- ARGS: id. Removes a run whose start may have failed, so that a repeat starts it. Readers that have found it meanwhile get the outcome
-- `lost`; the log of a delivery gets no entry for its end. A run that a node has restarted continues. Returns 1.
local runs = require('runs')
local id = ARGS[1]
local owner, outcome, session, term = unpack(redis.call('HMGET', run_key(id), 'owner', 'outcome', 'session', 'term'))
if not owner or term then return 1 end
if session then redis.call('ZREM', runs.producer_key(owner), id)
elseif not outcome then runs.finish(id, owner, '{"status":"lost"}', '') end
runs.remove(id)
return 1
