-- The node leaves for good.
enter()
bury(NODE)
changes['ran:' .. NODE] = nil
return 1
