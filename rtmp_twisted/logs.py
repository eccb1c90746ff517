"""The log: one line per event, at the levels that the ``LOG_…`` settings turn on.

The convention that `observer` reads, and that every module keeps to:

- Events come from a ``twisted.logger.Logger`` made at the top of the module: its namespace is the module's name,
  which it finds out by itself, but not where the module is compiled (setup.py).
- What belongs to one connection carries ``session`` (its number) and ``peer`` (its address without the port); an info
  event with a ``session`` is what LOG_REQUESTS means. `SessionLog` adds both.
- Trace events are debug events with ``trace=True``.
- What comes from the network goes into a field of the format, never into the format itself.

An info event of another package (Twisted's "Starting factory …") is a detail here and counts as debug.

tap.py makes the `LoggedService`; everything else makes Loggers and SessionLogs.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any, Final, cast

from attrs import frozen
from twisted.application.service import MultiService
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, LogLevel, formatEvent, formatTime
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from rtmp_twisted.settings import Settings

_OWN: Final = __name__.partition(".")[0]
_NAMES: Final = {LogLevel.warn: "warning"}


@frozen
class SessionLog:
    """A module's Logger with one connection's number and address bound.

    ``debug_on`` and ``trace_on`` are LOG_DEBUG and LOG_TRACE: a hot path asks them before it computes what it would
    log. Without that, a call whose level is off costs one call and builds no event.
    """

    logger: Logger
    session: int
    peer: str
    debug_on: bool = False
    trace_on: bool = False

    def trace(self, message: str, **values: object) -> None:
        if self.trace_on:
            self.logger.debug(message, session=self.session, peer=self.peer, trace=True, **values)

    def debug(self, message: str, **values: object) -> None:
        if self.debug_on:
            self.logger.debug(message, session=self.session, peer=self.peer, **values)

    def info(self, message: str, **values: object) -> None:
        self.logger.info(message, session=self.session, peer=self.peer, **values)

    def warn(self, message: str, **values: object) -> None:
        self.logger.warn(message, session=self.session, peer=self.peer, **values)

    def error(self, message: str, **values: object) -> None:
        self.logger.error(message, session=self.session, peer=self.peer, **values)

    def failure(self, message: str, failure: Failure | None = None, **values: Any) -> None:
        """A critical event with ``failure``'s traceback, or that of the exception being handled."""
        self.logger.failure(message, failure, session=self.session, peer=self.peer, **values)


def observer(settings: Settings, stream: IO[Any]) -> ILogObserver:
    """Writes the events that the ``LOG_…`` settings let through to ``stream``, which may take text or bytes."""
    shown = {
        "critical": settings.log_error,
        "error": settings.log_error,
        "warning": settings.log_warning,
        "info": settings.log_info,
        "request": settings.log_info and settings.log_requests,
        "debug": settings.log_debug,
        "trace": settings.log_trace,
    }

    def format_event(event: LogEvent) -> str | None:
        kind = _kind(event)
        return _lines(event, "info" if kind == "request" else kind) if shown[kind] else None

    return FileLogObserver(stream, format_event)


def _kind(event: LogEvent) -> str:
    level = event.get("log_level", LogLevel.info)
    if level is LogLevel.debug:
        return "trace" if event.get("trace") else "debug"
    if level is LogLevel.info:
        if "session" in event:
            return "request"
        if str(event.get("log_namespace", "")).partition(".")[0] != _OWN:
            return "debug"
    return _NAMES.get(level) or str(level.name)


def _lines(event: LogEvent, kind: str) -> str:
    """One line, and behind it, indented, a failure's traceback."""
    parts = [formatTime(event.get("log_time")), kind]
    if "session" in event:
        parts.append(f"#{event['session']}")
    if event.get("peer"):
        parts.append(printable(str(event["peer"])))
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is None:
        return " ".join([*parts, printable(text)]) + "\n"
    lines = [" ".join([*parts, printable(text or failure.getErrorMessage())])]
    try:
        traceback = failure.getTraceback()
    except Exception as error:  # a broken __str__ in the traceback must not lose the event
        traceback = f"(no traceback: {type(error).__name__})"
    lines += ["    " + printable(line) for line in traceback.splitlines()]
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    r"""``text`` on one line: control characters, line separators and the like become ``\n``, ``\x1b``, ``\u2028``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class LoggedService(MultiService):
    """The service that a twistd plugin's ``makeService`` returns, so that the log is `observer`'s.

    twistd looks for an ILogObserver on the application before it makes its own, and the application is what it hands
    to ``setServiceParent``. ``twistd_options`` (the plugin's ``options.parent``) say where the log goes: ``--logfile``,
    or standard output with ``--nodaemon``. With ``--syslog`` or ``--logger`` the log is Twisted's, of everything.
    """

    def __init__(self, settings: Settings, twistd_options: Mapping[str, Any] | None) -> None:
        super().__init__()
        stream = _stream(twistd_options or {"nodaemon": True})
        self._observer = None if stream is None else observer(settings, stream)

    def setServiceParent(self, parent: Any) -> None:
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


class _LogFile(LogFile):
    """A log file that SIGUSR1 rotates, as it does those of any twistd; with the next line that is written."""

    rotate_now = False

    def shouldRotate(self) -> bool:
        return self.rotate_now or bool(super().shouldRotate())

    def rotate(self) -> None:
        self.rotate_now = False
        super().rotate()


def _stream(options: Mapping[str, Any]) -> IO[Any] | None:
    """Where twistd's options want the log; None where the choice is left to twistd."""
    name = options.get("logfile")
    if options.get("syslog") or options.get("logger") or (name == "-" and not options.get("nodaemon")):
        return None
    if name == "-" or (not name and options.get("nodaemon")):
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A line that the locale cannot write must not be lost.
            sys.stdout.reconfigure(errors="backslashreplace")
        return sys.stdout
    file = _LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: setattr(file, "rotate_now", True))
    return cast("IO[Any]", file)
