"""Bytes to messages and back: no I/O, no Twisted, no clock, no randomness of its own.

Everything here is driven by its arguments, so that a table of bytes, a fuzzer or a capture file can drive it.
"""
