"""The log: one line for each event, at the levels that the ``LOG_…`` settings turn on.

All modules follow these conventions, which `observer` depends on:

- Events come from a ``twisted.logger.Logger`` made at the top of the module. Its namespace is the module's name. The
  Logger finds that name itself, except in a compiled module (setup.py), which passes ``__name__``.
- An event of one connection has the fields ``session`` (the connection's number) and ``peer`` (its address without the
  port). `SessionLog` adds both. LOG_REQUESTS is about info events with a ``session``.
- A trace event is a debug event with ``trace=True``.
- An event with ``from_worker`` is a line of a worker's log, which its process has formatted already.
- Text from the network is passed as a field of the format, never as part of the format itself.

Info events of other packages (Twisted's "Starting factory …") are logged as debug events.

tap.py makes the `LoggedService`; all other modules make Loggers and SessionLogs.
"""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, Final, cast

from attrs import frozen
from twisted.application.service import MultiService
from twisted.internet.interfaces import IReactorCore
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, LogLevel, formatEvent, formatTime
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from rtmp_twisted.log_stream import BackgroundStream, can_block
from rtmp_twisted.settings import Settings

_PACKAGE: Final = __name__.partition(".")[0]


@frozen
class SessionLog:
    """A module's Logger that adds one connection's number and address to each event.

    ``debug_on`` and ``trace_on`` are the values of LOG_DEBUG and LOG_TRACE. A call whose level is off makes no event.
    Code that runs for each message checks them itself, before it computes what it would log.
    """

    logger: Logger
    session: int | str
    peer: str
    debug_on: bool = False
    trace_on: bool = False
    quiet: bool = False
    """Info events are debug events."""

    def trace(self, message: str, **values: object) -> None:
        if self.trace_on:
            self.logger.debug(message, session=self.session, peer=self.peer, trace=True, **values)

    def debug(self, message: str, **values: object) -> None:
        if self.debug_on:
            self.logger.debug(message, session=self.session, peer=self.peer, **values)

    def info(self, message: str, **values: object) -> None:
        if self.quiet:
            self.debug(message, **values)
        else:
            self.logger.info(message, session=self.session, peer=self.peer, **values)

    def warn(self, message: str, **values: object) -> None:
        self.logger.warn(message, session=self.session, peer=self.peer, **values)

    def error(self, message: str, **values: object) -> None:
        self.logger.error(message, session=self.session, peer=self.peer, **values)

    def failure(self, message: str, failure: Failure | None = None, **values: Any) -> None:
        """Logs a critical event with the traceback of ``failure``, or of the exception that is being handled."""
        self.logger.failure(message, failure, session=self.session, peer=self.peer, **values)


def observer(settings: Settings, stream: IO[Any], name: str = "") -> ILogObserver:
    """Makes an observer that writes the events that the ``LOG_…`` settings select to ``stream`` (of text or bytes).
    ``name``, behind the level, says which process it is."""
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
        if "from_worker" in event:
            return f"{event['line']}\n"
        category = _category(event)
        return _lines(event, "info" if category == "request" else category, name) if shown[category] else None

    return FileLogObserver(stream, format_event)


def _category(event: LogEvent) -> str:
    """The level's name as it is logged, or "request" or "trace"."""
    level = event.get("log_level", LogLevel.info)
    if level is LogLevel.debug:
        return "trace" if event.get("trace") else "debug"
    if level is LogLevel.info:
        if "session" in event:
            return "request"
        if str(event.get("log_namespace", "")).partition(".")[0] != _PACKAGE:
            return "debug"
    return "warning" if level is LogLevel.warn else str(level.name)


def _lines(event: LogEvent, level: str, name: str = "") -> str:
    """Formats an event as one line. A failure's traceback follows it, indented."""
    parts = [formatTime(event.get("log_time")), level]
    if name:
        parts.append(name)
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
    except Exception as error:  # the event is logged even if a __str__ in the traceback raises
        traceback = f"(no traceback: {type(error).__name__})"
    lines += ["    " + printable(line) for line in traceback.splitlines()]
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    r"""Returns ``text`` on one line: control characters and line separators become ``\n``, ``\x1b``, ``\u2028``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class LoggedService(MultiService):
    """The root service that a twistd plugin's ``makeService`` returns. It makes twistd use this module's `observer`.

    twistd uses the ILogObserver of the application, if it has one; the application is what twistd passes to
    ``setServiceParent``. ``twistd_options`` (the plugin's ``options.parent``) say where the log goes: to ``--logfile``,
    or to standard output with ``--nodaemon``. With ``--syslog`` or ``--logger`` Twisted makes the log, of all events.
    """

    def __init__(self, settings: Settings, reactor: IReactorCore, twistd_options: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._reactor = reactor
        self._stream = _stream(twistd_options or {"nodaemon": True})
        self._observer = None if self._stream is None else observer(settings, self._stream)

    def privilegedStartService(self) -> None:
        # twistd may end the process with a signal, which skips what the stream does at an ordinary exit.
        if isinstance(self._stream, BackgroundStream):
            self._reactor.addSystemEventTrigger("after", "shutdown", self._stream.drain)
        super().privilegedStartService()

    def setServiceParent(self, parent: Any) -> None:
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


class _LogFile(LogFile):
    """A log file that SIGUSR1 rotates, as for any other twistd service. The next line that is written goes to the new
    file."""

    rotate_now = False

    def shouldRotate(self) -> bool:
        return self.rotate_now or bool(super().shouldRotate())

    def rotate(self) -> None:
        self.rotate_now = False
        super().rotate()


def _stream(options: Mapping[str, Any]) -> IO[Any] | None:
    """Returns the stream that twistd's options ask for, or None if twistd makes the log itself."""
    name = options.get("logfile")
    if options.get("syslog") or options.get("logger") or (name == "-" and not options.get("nodaemon")):
        return None
    if name == "-" or (not name and options.get("nodaemon")):
        return standard_output()
    file = _LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: setattr(file, "rotate_now", True))
    return cast("IO[Any]", file)


def standard_output() -> IO[Any] | None:
    """Returns the stream for a log on standard output, whose writes do not block."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if _can_block(stream):
        return cast("IO[Any]", BackgroundStream(stream.fileno(), stream.encoding, _lost_message))
    # A line with characters that the locale does not have is escaped, not lost.
    stream.reconfigure(errors="backslashreplace")
    return stream


def _can_block(stream: io.TextIOWrapper) -> bool:
    try:
        return can_block(stream.fileno())
    except (OSError, ValueError):  # it is no open file
        return False


def _lost_message(count: int) -> str:
    lines = "1 line is" if count == 1 else f"{count} lines are"
    return f"{formatTime(time.time())} warning {lines} missing here: the log was not read in time\n"
