-- The node leaves for good.
bury(NODE)
changes['ran:' .. NODE] = nil
return 1
