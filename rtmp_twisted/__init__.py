"""An RTMP and RTMPS server for live broadcasting, on Twisted."""
