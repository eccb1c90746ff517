"""RTMP over sockets: listener, limits, TLS, the connection of either role, sessions and the writer.

This room knows wire/, media/ and live/. tap.py makes its parts; web/ reads their state.
"""
