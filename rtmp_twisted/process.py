"""The process: its clock, what it logs at the start, and how it handles signals. Used by tap.py."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import time
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

MMAP_THRESHOLD = 128 * 1024
"""Bytes: blocks of memory from this size on are given back to the system when they are freed."""

TRIM_THRESHOLD = 2 * 1024 * 1024
"""Bytes that may be free at the end of the heap before they are given back to the system. With less, each frame would
take and give back the same pages."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_log = Logger()


def use_monotonic_clock(reactor: Any) -> None:
    """Gives the reactor a clock that only the passing of time moves.

    Twisted's reactor counts in the time of day. If that is set back by 600 s, nothing that was scheduled happens for
    600 s; if it is set forward, every time-out is over at once. Everything here that waits asks the reactor for the
    time. Dates (of the log's lines, of tokens, of certificates) come from the time of day, not from the reactor.

    Raises RuntimeError if something has been scheduled already, for a time of the clock that the reactor had before.
    """
    if reactor.getDelayedCalls():
        raise RuntimeError("the reactor's clock cannot be changed any more: something is scheduled")
    reactor.seconds = time.monotonic


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
        return_freed_memory()
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


def return_freed_memory() -> None:
    """Has the C library give large blocks back to the system as soon as they are freed.

    By default glibc raises the size from which it does so with each large block that is freed, up to 32 MiB. After
    some large messages the server would keep much of its largest size for ever. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)  # else it stays at 128 KiB from the line above on
