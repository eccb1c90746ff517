"""What setup.cfg cannot say: with RTMP_TWISTED_COMPILE=1 the way of a frame is compiled (docs/performance.md).

By mypyc, out of the same files. Who does not set it gets Python only, and needs no compiler.
"""

from __future__ import annotations

import os

from setuptools import setup

COMPILED = [
    "rtmp_twisted/wire/chunks.py",
    "rtmp_twisted/media/tags.py",
    "rtmp_twisted/wire/messages.py",
    "rtmp_twisted/live/headers.py",
    "rtmp_twisted/live/log.py",
    "rtmp_twisted/live/audience.py",
    "rtmp_twisted/live/cursor.py",
    "rtmp_twisted/live/publication.py",
    "rtmp_twisted/live/timestamps.py",
    "rtmp_twisted/rtmp/connection.py",
    "rtmp_twisted/rtmp/poller.py",
    "rtmp_twisted/rtmp/writer.py",
]
"""All that runs for each frame, but for what inherits from a class of Twisted."""

# Types are checked elsewhere; here only those of the files themselves are of use.
OPTIONS = ["--config-file=", "--follow-imports=skip", "--ignore-missing-imports"]

if os.environ.get("RTMP_TWISTED_COMPILE") != "1":
    setup()
else:
    try:
        from mypyc.build import mypycify
    except ImportError:  # a build asks first what it needs
        setup(setup_requires=["mypy >= 1.11", "attrs >= 23.2"])
    else:
        setup(ext_modules=mypycify([*OPTIONS, *COMPILED]))
