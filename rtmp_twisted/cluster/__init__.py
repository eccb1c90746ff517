"""Several processes that are one server: a supervisor that listens, and workers that have the connections."""
