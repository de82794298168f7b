-- The node leaves for good.
enter()
bury(NODE)
return 1
