"""The path of a stream: which of these servers it has passed. Used by live/, rtmp/ and relay/.

Servers may push to, and pull from, each other, so that a stream comes back to one where it has been. Each process has a
random id. A ``connect`` between two of them, and the status of a play, say which ones the stream has passed, so that
the first server that would close a loop refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PATH: Final = "rtmpTwistedPath"
"""The property that names the servers of a path, separated by commas."""

CLAIM: Final = "rtmpTwistedClaim"
"""The property that says, with the path, by which claim (its epoch) a publish is on air: one worker tells another, of
which each hears of claims from the supervisor at a time of its own."""

MAX_PATH: Final = 16
"""Servers in a path. A stream that has passed so many is refused."""

_MAX_LENGTH: Final = 1024


def read_path(value: object) -> tuple[str, ...]:
    """Returns the path in a property that somebody has sent: nothing for what is none."""
    if not isinstance(value, str) or len(value) > _MAX_LENGTH:
        return ()
    return tuple(part for part in value.split(",") if part)


def refusal(path: Sequence[str], server_id: str) -> str:
    """Returns why a stream with this path cannot come to this server, or an empty text."""
    if server_id and server_id in path:
        return "a loop: the stream comes from this server"
    return f"the stream has passed {MAX_PATH} servers already" if len(path) >= MAX_PATH else ""
