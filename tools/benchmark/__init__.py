"""The parts of ``tools/bench``: a load generator for RTMP servers, what starts them, and what reports.

Only the standard library is used, and nothing of the server under test: an instrument that shared code with what it
measures would share its mistakes. ``rtmp``, ``walker`` and ``frames`` know bytes and no sockets; ``load`` is one load
process; ``peers``, ``process`` and ``scenarios`` are what ``runner`` measures; ``report`` and ``plot`` write it down.
"""
