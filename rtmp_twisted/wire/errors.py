"""The one exception of the wire layer. Raised for what the remote side sent, never for a mistake of ours."""


class ProtocolError(Exception):
    """The remote side broke the protocol; ``str(error)`` is the reason for the log.

    The connection it came from has to be closed: what follows on it cannot be understood.
    """
