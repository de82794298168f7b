-- ARGS: token, id, name with the principal, JSON of the input, fingerprint or '', milliseconds to keep the run, which existing
-- run to return (`running`, `kept`, `never`), the name of the producer of a run that can be restarted or '', and for the run of
-- a delivery the session, the start of the frame of its end or '', and the frame of a request to the client or ''.
-- Returns a marked reply with the record of the run, or why there is none: `exists`, `reused` (the fingerprint differs), `full`,
-- `session_over`, `resend` (as a new command).
-- Lua does not parse the JSON, so some of its values are also arguments.
local logs, nodes, runs = require('logs'), require('nodes'), require('runs')
local token, id, name, input, fingerprint, keep, reuse, producer, session, part_prefix, request = unpack(ARGS)

-- The node may have received the reply to the first execution already. Then, it would not produce a run that a retry starts.
if is_retry then return marked_reply(token, redis.call('EXISTS', run_key(id)) == 1 and runs.record(id) or 'resend') end
local existing = redis.call('HGET', runs.names, name)
if existing then
  local start_position, outcome, existing_fingerprint, owner, restarting_producer = unpack(redis.call('HMGET', run_key(existing), 'startPosition', 'outcome', 'fingerprint', 'owner', 'producer'))
  -- The lease of its node has ended, but no heartbeat has ended the run yet.
  if start_position and not outcome and not restarting_producer and not nodes.check_lease(owner) then
    outcome = '{"status":"lost"}'
    runs.finish(existing, owner, outcome, '')
  end
  if start_position and (not outcome or reuse == 'kept') then
    if reuse == 'never' then return marked_reply(token, 'exists') end
    if existing_fingerprint ~= fingerprint then return marked_reply(token, 'reused') end
    runs.add_node(existing, 'nodes')
    return marked_reply(token, runs.record(existing))
  end
end
if session then
  if request ~= '' and logs.append_to_session(session, request, '') == -1 then return marked_reply(token, 'session_over') end
  redis.call('HSET', run_key(id), 'session', session, 'partPrefix', part_prefix)
else
  runs.remove_expired()
  if redis.call('ZCARD', runs.all) >= $MAX_RUNS then
    local oldest = redis.call('ZRANGEBYSCORE', runs.all, '-inf', '(' .. format_integer(runs.RUNNING), 'LIMIT', 0, 1)[1]
    if not oldest then return marked_reply(token, 'full') end
    runs.remove(oldest)
  end
  redis.call('ZADD', runs.all, runs.RUNNING, id)
end
redis.call('HSET', run_key(id), 'input', input, 'name', name, 'fingerprint', fingerprint, 'keep', keep, 'startPosition', position, 'owner', NODE_ID, 'nodes', NODE_ID .. ',')
if producer ~= '' then redis.call('HSET', run_key(id), 'producer', producer) end
redis.call('HSET', runs.names, name, id)
redis.call('ZADD', runs.producer_key(NODE_ID), position, id)
redis.call('ZADD', runs.producers, 0, NODE_ID)
return marked_reply(token, runs.record(id))
