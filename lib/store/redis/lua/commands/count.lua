-- ARGS: channel. Returns the number of its members.
local channels = require('channels')
return channels.count(channel_key(ARGS[1]))
