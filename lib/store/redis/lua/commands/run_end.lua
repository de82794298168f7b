-- ARGS: token, id, JSON of the outcome.
-- Returns a marked reply with the record of the run, with 1 as the fifth value if this command has ended the run.
local token, id, outcome = unpack(ARGS)
local ended_by = NODE_ID .. ':' .. command_number
local owner, earlier_outcome, earlier_ended_by = unpack(redis.call('HMGET', run_key(id), 'owner', 'outcome', 'endedBy'))
if owner and not earlier_outcome then
  runs.finish(id, owner, outcome, ended_by)
  earlier_ended_by = ended_by
end
local record = runs.record(id)
record[5] = earlier_ended_by == ended_by and 1 or 0
return marked_reply(token, record)
