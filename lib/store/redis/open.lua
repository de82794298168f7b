-- id, whether it has a principal, the principal. Answers with the position at which it was opened; -1 where there are too many.
local id, principal = ARGS[1], ARGS[2] == '1' and ARGS[3]
local key = session(id)
local openedAt = redis.call('HGET', key, 'openedAt')
if openedAt then return openedAt end
if redis.call('ZCARD', P .. ':deadlines') >= MAX_SESSIONS then return -1 end
if principal then
  local others = P .. ':p:' .. principal
  -- Those that went without an end, as when Redis had to evict them.
  redis.call('ZREMRANGEBYSCORE', others, '-inf', clock - RESUME - 60000)
  if redis.call('ZCARD', others) >= MAX_PER_PRINCIPAL then return -1 end
  redis.call('HSET', key, 'principal', principal)
  redis.call('PEXPIRE', others, TTL)
end
redis.call('HSET', key, 'openedAt', pos, 'cursor', pos, 'version', 1, 'epoch', 0, 'owner', '')
redis.call('PEXPIRE', key, TTL)
wait(id, principal, RESUME)
if principal then redis.call('PEXPIRE', P .. ':p:' .. principal, TTL) end
return int(pos)
