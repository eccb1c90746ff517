"""One worker process, as the supervisor has it: how it is started, watched and ended.

A worker is a fresh Python, with the control channel as descriptor 3 and its log on standard output. It gets what it
needs to know over the channel. It ends when the channel does.
"""

from __future__ import annotations

import base64
import os
import pickle
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import rtmp_twisted
from rtmp_twisted.cluster.control import Control, Failed, Gone, attach

CONTROL: Final = 3
"""The descriptor of the control channel in a worker."""

MODULE: Final = "rtmp_twisted.worker"

PING_SECONDS: Final = 1.0
"""From one question whether it is alive to the next."""

HUNG_SECONDS: Final = 5.0
"""A worker that has not answered for so long hangs."""

START_SECONDS: Final = 30.0
"""How long a worker may take to get ready."""

FINISH_SECONDS: Final = 2.0
"""How long a worker may take to end when its channel is closed."""

MAX_LINE: Final = 64 * 1024
"""Bytes of the longest line of its log that is kept together."""

_log = Logger()


class Worker(ProcessProtocol):
    """``number`` is 1 to WORKERS. ``about`` is what it is told at its start. ``ready`` is called when it may be given
    connections, ``ended`` when it has ended."""

    def __init__(
        self,
        reactor: Any,
        number: int,
        about: dict[str, Any],
        handlers: Callable[[Worker], dict[str, Callable[..., Any]]],
        ready: Callable[[Worker], None],
        ended: Callable[[Worker], None],
    ) -> None:
        self.number = number
        self.ready = False
        self.began_at: float = reactor.seconds()
        self.connections: Counter[tuple[str, str]] = Counter()
        """Those that were handed to it, by kind and address."""
        self.load = 0
        """How many these are."""
        self.said: dict[str, Any] = {}
        """What it has said last of its players and pulls; nothing where there are no other machines."""
        self.ended = False
        self.gone: Deferred[None] = Deferred()
        """Fires when the process is gone."""
        self._reactor = reactor
        self._on_ready = ready
        self._on_end = ended
        self._finishing = False
        self._asked_at: float | None = None
        self._rest = b""
        ours, theirs = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ours.setblocking(False)
            self.control = Control(handlers(self), self._channel_lost)
            attach(reactor, ours.fileno(), self.control)
            self._process: Any = reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-m", MODULE],
                env=_environment(),
                childFDs={0: nothing, 1: "r", 2: "r", CONTROL: theirs.fileno()},
            )
        finally:
            ours.close()
            theirs.close()
            os.close(nothing)
        self.pid: int = self._process.pid
        self.control.call("begin", number=number, about=base64.b64encode(pickle.dumps(about)).decode()).addCallbacks(
            self._is_ready, self._could_not_begin
        )

    def check(self) -> None:
        """Called every `PING_SECONDS`: ends it if it hangs."""
        now = self._reactor.seconds()
        if self.ended:
            return
        if not self.ready:
            if now - self.began_at > START_SECONDS:
                self.kill(f"it was not ready within {START_SECONDS:.0f} s")
        elif self._asked_at is None:
            self._asked_at = now
            self.control.call("ping").addCallbacks(self._answered, lambda _: None)
        elif now - self._asked_at > HUNG_SECONDS:
            self.kill(f"it has not answered for {HUNG_SECONDS:.0f} s")

    def forgive(self) -> None:
        """The supervisor itself was late: what has been waited for so far does not count."""
        self.began_at = now = self._reactor.seconds()
        if self._asked_at is not None:
            self._asked_at = now

    def kill(self, reason: str = "") -> None:
        """Ends it at once. ``reason`` is for the log."""
        if reason:
            name = f"worker {self.number} (process {self.pid})"
            _log.error("{name} is ended: {reason}", name=name, reason=reason)
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(signal.SIGKILL)

    def finish(self) -> Deferred[None]:
        """Closes the control channel, which ends it. Fires when it is gone."""
        self._finishing = True
        self.control.abort()
        self._reactor.callLater(FINISH_SECONDS, self.kill)
        return self.gone

    # What the process does

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log_line(line)
        if len(self._rest) > MAX_LINE:
            self._log_line(self._rest)
            self._rest = b""

    def processEnded(self, reason: Failure) -> None:
        if self._rest:
            self._log_line(self._rest)
        self._end()
        self.gone.callback(None)

    # Inside

    def _log_line(self, line: bytes) -> None:
        _log.info("{line}", line=line.decode("utf-8", "replace"), from_worker=True)

    def _is_ready(self, _: object) -> None:
        if not self.ended:
            self.ready = True
            self._on_ready(self)

    def _could_not_begin(self, failure: Failure) -> None:
        failure.trap(Gone, Failed)
        self.kill()

    def _answered(self, said: dict[str, Any]) -> None:
        self._asked_at = None
        self.said = said

    def _channel_lost(self) -> None:
        """It is ending, or has given up; nothing more comes from it."""
        if not self._finishing:
            self.kill()
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.ready = False
            self._on_end(self)


def _environment() -> dict[str, str]:
    """As this process's own, with this very package."""
    path = [str(Path(rtmp_twisted.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
