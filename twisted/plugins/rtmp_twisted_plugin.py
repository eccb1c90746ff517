"""Makes ``twistd rtmp`` known. Nothing of the server is imported before it is asked for."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

rtmp = ServiceMaker(
    "rtmp-twisted",
    "rtmp_twisted.tap",
    "An RTMP and RTMPS server for live broadcasting.",
    "rtmp",
)
