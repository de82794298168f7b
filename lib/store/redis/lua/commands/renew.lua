-- ARGS: the number of sessions, id and epoch of each, then channels. The sessions do not expire while their streams are on this
-- node; the epoch 0 means that a client is opening or resuming the session. Returns 1.
local channels, retention = require('channels'), require('retention')
local count = tonumber(ARGS[1])
for i = 2, count * 2, 2 do
  local id, epoch = ARGS[i], ARGS[i + 1]
  local key = session_key(id)
  local current_epoch, close_reason, principal, owner = unpack(redis.call('HMGET', key, 'epoch', 'closeReason', 'principal', 'owner'))
  if current_epoch and not is_retry and (epoch == '0' or current_epoch == epoch and owner == NODE_ID) then
    if close_reason then retention.set_ttl(key, $RESUME_TIMEOUT, true)
    else
      retention.set_deadline(id, principal, epoch == '0' and retention.OPENING_TIMEOUT or retention.STREAM_TIMEOUT)
      retention.set_ttl(key, $TTL)
      if principal then redis.call('PEXPIRE', KEY_PREFIX .. ':p:' .. principal, $TTL) end
    end
  end
end
for i = count * 2 + 2, #ARGS do
  local key = channel_key(ARGS[i])
  if channels.count(key) > 0 then
    channels.renew_members(key)
    channels.set_ttl(key, redis.call('HGET', key, 'keep'))
  end
end
return 1
