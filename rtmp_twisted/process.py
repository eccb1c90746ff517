"""The process: what it logs at the start, and how it handles signals. tap.py makes the `ProcessService`."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from rtmp_twisted.settings import Settings
from rtmp_twisted.summary import lines

COLLECT_AFTER = 20_000, 20, 20
"""Arguments of ``gc.set_threshold``: the garbage collector runs less often than by default.

A channel's log holds some objects for each message, which makes every run long, and a run stops the whole server.
These objects need no garbage collector: they are freed when the last reference to them goes.
"""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_log = Logger()


class ProcessService(Service):
    """Logs the settings at the start, and handles signals.

    SIGTERM and SIGINT stop the server, which then exits with status 0. SIGHUP calls ``reload``. A server in the
    foreground of a terminal that was closed gets SIGHUP as well; that stops the server.
    """

    def __init__(self, settings: Settings, reactor: Any, reload: Callable[[], None]) -> None:
        self._settings = settings
        self._reactor = reactor
        self._reload = reload
        self._stopping = False
        self._on_terminal = os.isatty(0)

    def privilegedStartService(self) -> None:
        """Sets the handlers before the server listens: a program that can connect to it can also stop it."""
        super().privilegedStartService()
        self._handle_signals()

    def startService(self) -> None:
        super().startService()
        gc.set_threshold(*COLLECT_AFTER)
        # The reactor sets its own handlers when it starts. They end the process with the signal, not with status 0.
        # Signals are blocked until these handlers are replaced again.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._reactor.callWhenRunning(self._handle_signals)
        for line in lines(self._settings):
            _log.info("{line}", line=line)
        for line in self._settings.warnings():
            _log.warn("{line}", line=line)

    def _handle_signals(self) -> None:
        for number in signal.SIGTERM, signal.SIGINT:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _hang_up(self, number: int, frame: object) -> None:
        if self._on_terminal and not os.isatty(0):
            self._stop(number, frame)
        else:
            self._reactor.callFromThread(self._reload)

    def _stop(self, number: int, _: object) -> None:
        if self._stopping:
            return
        self._stopping = True
        name = signal.Signals(number).name
        self._reactor.callFromThread(_log.info, "{name}: the server is stopping", name=name)
        self._reactor.callFromThread(self._reactor.stop)


def available_memory() -> int:
    """Returns the bytes of memory of this machine, or of the container that limits it (cgroup versions 2 and 1)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes":
        try:
            with open(path) as file:
                text = file.read(32).strip()
        except OSError:
            continue
        if text.isdigit():
            return min(machine, int(text))
    return machine
