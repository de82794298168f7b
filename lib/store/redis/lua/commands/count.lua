-- ARGS: channel. Returns the number of its members.
return channels.count(channel_key(ARGS[1]))
