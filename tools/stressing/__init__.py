"""The parts of ``tools/stress``: what clients do to a server, and what must hold for others meanwhile and afterwards.

``strangers`` and ``attackers`` are the clients; ``stage`` is the server and its audience; ``attack`` and ``cli`` bring
them together. The standard library, and tools/benchmark for the server's process and the audience.
"""
