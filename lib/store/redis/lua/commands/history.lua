-- ARGS: id of the session that reads, channel, how many entries to return, the position up to which to read.
-- Returns the result of `channels.read_history`.
local channels = require('channels')
return { channels.read_history(channel_key(ARGS[2]), ARGS[1], tonumber(ARGS[3]), tonumber(ARGS[4])) }
