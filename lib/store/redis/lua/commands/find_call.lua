-- ARGS: a call. Returns its result; nil if it has changed nothing.
return calls.find(ARGS[1]) or false
