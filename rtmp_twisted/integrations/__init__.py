"""Who decides and who commands: the callback, the coordinator and Redis, each a service imported only when it is on."""
