-- ARGS: channel. Drops its history. Returns 1.
local channels = require('channels')
local key = channel_key(ARGS[1])
if is_retry or redis.call('EXISTS', key) == 0 then return 1 end
-- From now on, the log is that of a channel that is not kept. The next append trims it, because `nextTrimAt` was set for a
-- longer age, and may be after the end of the new TTL: the log would expire without a record of the loss.
redis.call('HSET', key, 'historyStart', position, 'nextTrimAt', 0)
redis.call('HDEL', key, 'keep')
local log_ttl = math.ceil($CHANNEL_LOG.age * 1.25) + 5000
if redis.call('PTTL', key .. ':log') > log_ttl then
  redis.call('PEXPIRE', key .. ':log', log_ttl)
  redis.call('PEXPIRE', key .. ':latest', log_ttl)
end
if channels.count(key) == 0 then channels.set_ttl_of_log(key) else channels.set_ttl(key, false) end
return 1
