"""The process: its clock, what it logs at the start, and how it handles signals. Used by tap.py."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtmp_twisted.settings import Settings
from rtmp_twisted.summary import lines

COLLECT_AFTER = 20_000, 5, 2**30
"""Arguments of ``gc.set_threshold``: the garbage collector looks at new objects only, and less often than by default.

A channel's log holds some objects for each message. To look at all of a million objects stops the whole server for
200 ms. These objects need no garbage collector: they are freed when the last reference to them goes.
"""

COLLECT_SECONDS = 600
"""How often the garbage collector looks at all objects, for the sake of old cycles, where there are few."""

FEW_OBJECTS = 300_000
"""Blocks of Python's memory that the server may have taken since its start for that: it takes 20 ms then."""

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


class GarbageService(Service):
    """Has the garbage collector run so seldom, and look at so little at a time, that no frame waits for it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._at_start = 0  # blocks of Python's memory
        self._collections = LoopingCall(self._collect)
        self._collections.clock = clock

    def startService(self) -> None:
        super().startService()
        gc.collect()
        gc.freeze()  # what is there now stays, and is not looked at again
        gc.set_threshold(*COLLECT_AFTER)
        self._at_start = sys.getallocatedblocks()
        self._collections.start(COLLECT_SECONDS, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._collections.stop()

    def _collect(self) -> None:
        if sys.getallocatedblocks() - self._at_start <= FEW_OBJECTS:
            gc.collect()


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


def give_back_memory() -> None:
    """Gives the pages of the heap that are free back to the system, wherever they are in it: the C library does so by
    itself at the heap's end only. Takes 6 ms for 90 MB. Does nothing where there is no glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_freed_memory() -> None:
    """Has the C library give large blocks back to the system as soon as they are freed.

    By default glibc raises the size from which it does so with each large block that is freed, up to 32 MiB. After
    some large messages the server would keep much of its largest size for ever. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)  # else it stays at 128 KiB from the line above on
