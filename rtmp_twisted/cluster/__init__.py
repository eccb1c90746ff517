"""Several processes that are one server: a supervisor and its workers on one machine, or nodes on several machines."""
