-- Ends the registration of this node. Returns 1.
expire_node(NODE)
return 1
