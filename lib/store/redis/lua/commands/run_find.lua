-- ARGS: token, `id` or `name`, the id of a run or its name with the principal.
-- Returns the inbox number, the newest position, the rollback position, and the record of the run.
local token, kind, value = unpack(ARGS)
local id = kind == 'id' and value or redis.call('HGET', runs.names, value) or ''
local record = runs.record(id)
if record[1] then runs.add_user(id, 'users') end
return { mark_reply(token), int(position), int(rollback_position), record }
