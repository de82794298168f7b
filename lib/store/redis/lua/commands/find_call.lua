-- ARGS: a call. Returns its result; nil if it has changed nothing.
local calls = require('calls')
return calls.find(ARGS[1]) or false
