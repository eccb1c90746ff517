"""An RTMP and RTMPS server for live streaming, built on Twisted."""
