"""The one exception of this room. It is raised for what the remote side sent, never for a mistake of the caller."""


class ProtocolError(Exception):
    """The remote side broke the protocol; ``str(error)`` is the reason for the log.

    The caller has to close the connection, since nothing that follows on it can be understood.
    """
