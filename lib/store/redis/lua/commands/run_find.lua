-- ARGS: token, `id` or `name`, the id of a run or its name with the principal.
-- Returns a marked reply with the record of the run.
local runs = require('runs')
local token, kind, value = unpack(ARGS)
local id = kind == 'id' and value or redis.call('HGET', runs.names, value) or ''
local record = runs.record(id)
if record[1] then runs.add_node(id, 'nodes') end
return marked_reply(token, record)
