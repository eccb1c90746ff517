"""What ``tools/stress`` is made of: strangers (what they do), cli (who they do it to, and what must hold afterwards).

The standard library, and tools/benchmark for the server, its usage, and the audience that follows each frame.
"""
