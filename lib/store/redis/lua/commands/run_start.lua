-- ARGS: token, id, name with the principal, JSON of the input, fingerprint or '', milliseconds to keep the run, which existing
-- run to return (`running`, `kept`, `never`), and for the run of a delivery the session and the start of the frame of its end.
-- Returns the inbox number, the newest position, the rollback position, and the record of the run, or why there is none: `exists`,
-- `reused` (the fingerprint differs), `many`.
local token, id, name, input, fingerprint, keep, reuse, session, part_prefix = unpack(ARGS)

local function reply (value) return { mark_reply(token), int(position), int(rollback_position), value } end

if is_retry and redis.call('EXISTS', runs.key(id)) == 1 then return reply(runs.record(id)) end
local existing = redis.call('HGET', runs.names, name)
if existing then
  local start_position, outcome, existing_fingerprint = unpack(redis.call('HMGET', runs.key(existing), 'startPosition', 'outcome', 'fingerprint'))
  if start_position and (not outcome or reuse == 'kept') then
    if reuse == 'never' then return reply('exists') end
    if existing_fingerprint ~= fingerprint then return reply('reused') end
    runs.add_user(existing, 'users')
    return reply(runs.record(existing))
  end
end
if session then
  redis.call('HSET', runs.key(id), 'session', session, 'partPrefix', part_prefix)
else
  runs.remove_expired()
  if redis.call('ZCARD', runs.all) >= MAX_RUNS then
    local oldest = redis.call('ZRANGEBYSCORE', runs.all, '-inf', '(' .. int(runs.RUNNING), 'LIMIT', 0, 1)[1]
    if not oldest then return reply('many') end
    runs.remove(oldest)
  end
  redis.call('ZADD', runs.all, runs.RUNNING, id)
end
redis.call('HSET', runs.key(id), 'input', input, 'name', name, 'fingerprint', fingerprint, 'keep', keep, 'startPosition', position, 'owner', NODE, 'users', NODE .. ',')
redis.call('HSET', runs.names, name, id)
redis.call('ZADD', runs.producer_key(NODE), position, id)
redis.call('ZADD', runs.producers, 0, NODE)
return reply(runs.record(id))
