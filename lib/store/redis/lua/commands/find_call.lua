-- ARGS: the id of a call (see modules/calls.lua). Returns its result; nil if it has changed nothing.
local calls = require('calls')
return calls.find(ARGS[1]) or false
