-- ARGS: token, id, JSON of the outcome, and if only the newest producer of a run that can be restarted may end it, the term of the sender.
-- Returns a marked reply with the record of the run, with 1 as the seventh value if this command has ended the run.
local runs = require('runs')
local token, id, outcome, producer_term = unpack(ARGS)
local ended_by = NODE_ID .. ':' .. command_number
local owner, earlier_outcome, earlier_ended_by, term = unpack(redis.call('HMGET', run_key(id), 'owner', 'outcome', 'endedBy', 'term'))
local is_allowed = not producer_term or owner == NODE_ID and (term or '0') == producer_term
if owner and not earlier_outcome and is_allowed then
  runs.finish(id, owner, outcome, ended_by)
  earlier_ended_by = ended_by
end
local record = runs.record(id)
record[7] = earlier_ended_by == ended_by and 1 or 0
return marked_reply(token, record)
