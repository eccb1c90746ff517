"""RTMP's bytes as messages and back, for both roles: handshake, chunk stream, messages, AMF 0 and AMF 3.

May be imported by every other room, and imports none of them. It does no I/O and knows nothing of Twisted. It has no
clock and no source of randomness: the caller passes both to a handshake. So a table of bytes, a fuzzer or a capture
file can drive everything here. What the remote side does wrong raises ProtocolError (errors.py), and nothing else.
"""
