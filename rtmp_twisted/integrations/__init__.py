"""Other parties that decide on publishes or command the server: the HTTP callback, the coordinator and Redis.

Only tap.py imports these modules, and each only when its setting is on, since each brings a library with it. A module
here may import ``live/`` and nothing else of this package. It reaches the rest of the server through two interfaces:
it provides ``IPublishAuthority``, which the broker asks, or it calls ``ICommandTarget``, which ends publishes.
"""
