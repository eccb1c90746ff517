"""A text stream whose `write` never blocks: for a log on standard output, which nobody may be reading. Used by logs.py.

Standard output is often a pipe, a socket or a terminal. When nobody reads it, a write blocks, and with it the whole
server, which has one thread. Here a second thread does the writing, and a bounded number of lines waits for it. The
other ways have gaps:

- O_NONBLOCK belongs to the open file, which the server shares with other processes, such as the shell that started it.
- ``/proc/self/fd/1`` can be opened again, with flags of its own, but not if it is a socket or belongs to another user.
- ``poll`` tells that a terminal takes something, but not how much; and for a pipe its answer is out of date as soon as
  another process writes to the same pipe.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import signal
import stat
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final

MAX_WAITING: Final = 256 * 1024
"""Most bytes of lines that wait to be written: some 2,000 lines, beside what the pipe itself holds (64 KiB)."""

LAST_LINES_SECONDS: Final = 2.0
"""How long the end of the process waits in all for the lines that are left."""


def can_block(descriptor: int) -> bool:
    """Whether writing to this file descriptor waits for somebody who reads."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


class BackgroundStream(io.TextIOBase):
    """Writes text to a file descriptor in a thread of its own, in the order in which it came.

    While ``max_waiting`` bytes wait, further lines are dropped and counted. As soon as everything that waits has been
    written, ``lost_message(count)`` is written in the place of the dropped lines, and lines are taken again.

    Each call of `write` is expected to be one line (or a few that belong together). `write` may be called by any
    thread. Text that the encoding cannot express is escaped.
    """

    def __init__(
        self, descriptor: int, encoding: str, lost_message: Callable[[int], str], max_waiting: int = MAX_WAITING
    ) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._lost_message = lost_message
        self._max_waiting = max_waiting
        self._patience = LAST_LINES_SECONDS
        self._changed = Condition()
        # All below is guarded by the condition's lock.
        self._thread: Thread | None = None
        self._waiting: deque[bytes] = deque()
        self._unwritten = 0
        """Bytes that wait, and those that the thread is writing."""
        self._lost = 0
        self._broken = False
        """Whether the last write failed. The next line is the occasion to try again."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        data = text.encode(self._encoding, "backslashreplace")
        with self._changed:
            if self._thread is None:
                self._start()
            self._broken = False
            if self._lost or self._unwritten + len(data) > self._max_waiting:
                self._lost += 1
            else:
                self._waiting.append(data)
                self._unwritten += len(data)
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing: every line is written as soon as that is possible."""

    def drain(self) -> None:
        """Waits until all lines are written. All calls together wait for at most LAST_LINES_SECONDS."""
        start = time.monotonic()
        with self._changed:
            self._changed.wait_for(self._is_idle, self._patience)
        self._patience = max(0.0, self._patience - (time.monotonic() - start))

    def _start(self) -> None:
        # Not before the first line: a process that forks to go into the background would lose the thread.
        self._thread = Thread(target=self._run, name="log", daemon=True)
        # The new thread inherits that it gets no signals: process.py blocks them in the main thread for a moment, and
        # relies on it that they wait then.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        atexit.register(self.drain)

    def _is_idle(self) -> bool:
        return not self._unwritten and (not self._lost or self._broken)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_idle())
                data, count = self._next()
            try:
                self._write(data)
                failed = False
            except OSError:  # the reader has gone
                failed = True
            with self._changed:
                self._unwritten -= len(data)
                if failed:
                    self._lost += count
                    self._broken = True
                self._changed.notify_all()

    def _next(self) -> tuple[bytes, int]:
        """What is written next, and the number of lines that are lost if that fails.

        It is as many lines as a pipe takes in one piece, so that no other process writes into the middle of a line.
        """
        if not self._waiting:
            count, self._lost = self._lost, 0
            data = self._lost_message(count).encode(self._encoding, "backslashreplace")
            self._unwritten += len(data)
            return data, count
        lines = [self._waiting.popleft()]
        size = len(lines[0])
        while self._waiting and size + len(self._waiting[0]) <= select.PIPE_BUF:
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        return b"".join(lines), len(lines)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process made the open file non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
