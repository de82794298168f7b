-- Ends the registration of this node. Returns 1.
expire_node(NODE_ID)
return 1
