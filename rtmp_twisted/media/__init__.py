"""What is in a media message, and the containers it can be put into: tags, keyframes, codecs, FLV.

May be imported by every room but wire/, and imports wire/ only. It does no I/O and has no clock. All here is functions
of bytes, and small objects that only their owner changes. Functions that read what a publisher sent never raise, and
look at a bounded number of bytes, tracks and units: their docstrings and constants say how many.
"""
