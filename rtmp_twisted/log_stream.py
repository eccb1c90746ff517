"""A text stream whose `write` never blocks, for a log on standard output. Used by logs.py.

Standard output is often a pipe, a socket or a terminal. If its reader stops reading, a write blocks. The server has one
thread, so it would stand still. Therefore a second thread does the writing, and a bounded amount of text waits for it.

Other solutions have gaps:

- O_NONBLOCK is a flag of the open file, which the server shares with other processes, such as the shell it runs in.
- ``/proc/self/fd/1`` can be opened again with other flags, but not if it is a socket or belongs to another user.
- ``poll`` says that a terminal accepts something, but not how much. For a pipe, its answer is wrong as soon as another
  process writes to the same pipe.
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
"""Most bytes of lines that wait to be written: about 2,000 lines. A pipe itself holds another 64 KiB."""

LAST_LINES_SECONDS: Final = 2.0
"""How long the end of the process waits for the remaining lines, in total."""


def can_block(descriptor: int) -> bool:
    """Whether a write to this file descriptor waits until somebody reads."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


class BackgroundStream(io.TextIOBase):
    """Writes text to a file descriptor in its own thread, in the order of the calls of `write`.

    If more than ``max_waiting`` bytes would wait, a line is dropped and counted, and so are all lines after it until
    the waiting lines have been written. Then ``lost_message(count)`` is written in place of the dropped lines.

    Each call of `write` should pass one line, or several that belong together. Any thread may call it. Characters that
    the encoding does not have are escaped.
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
        # The lock of the condition protects everything below.
        self._thread: Thread | None = None
        self._waiting: deque[bytes] = deque()
        self._unwritten = 0
        """Bytes that wait or are being written."""
        self._lost = 0
        self._broken = False
        """Whether the last write failed. The next line causes another attempt."""

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
        """Does nothing: every line is written as soon as possible."""

    def drain(self) -> None:
        """Waits until all lines are written. All calls together wait at most LAST_LINES_SECONDS."""
        start = time.monotonic()
        with self._changed:
            self._changed.wait_for(self._is_idle, self._patience)
        self._patience = max(0.0, self._patience - (time.monotonic() - start))

    def _start(self) -> None:
        # This waits for the first line, because a process loses its threads when it forks into the background.
        thread = Thread(target=self._run, name="log", daemon=True)
        # The thread inherits the signal mask. process.py blocks signals for a moment; they must not reach this thread.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left; the next line causes another attempt
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread
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
            except OSError:  # the reader has closed its end
                failed = True
            with self._changed:
                self._unwritten -= len(data)
                if failed:
                    self._lost += count
                    self._broken = True
                self._changed.notify_all()

    def _next(self) -> tuple[bytes, int]:
        """Returns what to write next, and the number of lines that are lost if that fails.

        It is at most what a pipe accepts in one piece, so that another process cannot write into the middle of a line.
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
            except BlockingIOError:  # another process has set O_NONBLOCK
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
