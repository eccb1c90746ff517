"""The parts of ``tools/bench``: a load generator for RTMP servers, what starts them, and what reports.

Only the standard library is used, and no code of the server under test: if both shared code, they would share its
mistakes. ``rtmp``, ``walker`` and ``frames`` work on bytes, without sockets; ``load`` is one load process; ``peers``,
``process`` and ``scenarios`` are what ``runner`` measures; ``report`` and ``plot`` write the results down.
"""
