"""The log: which events it writes, what a line looks like, that nothing forges one, twistd's options, and a log that
nobody reads."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.application.service import Application, IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactor
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted import log_stream
from rtmp_twisted.log_stream import BackgroundStream, can_block
from rtmp_twisted.logs import LoggedService, SessionLog, observer, printable
from rtmp_twisted.settings import Settings
from tests.support.fakes import within
from tests.support.programs import Server

ROOT = Path(__file__).parent.parent


class Log:
    """A Logger, as a module of the package has it, and what is written of its events."""

    def __init__(self, namespace: str = "rtmp_twisted.somewhere", **settings: Any) -> None:
        self.stream = io.StringIO()
        publisher = LogPublisher(observer(Settings(**settings), self.stream))
        self.logger = Logger(namespace, observer=publisher)
        self.session = SessionLog(self.logger, 12, "192.0.2.1", debug_on=True, trace_on=True)

    @property
    def text(self) -> str:
        return re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", "", self.stream.getvalue())


def every_kind(log: Log) -> list[str]:
    """Logs one event of each kind; returns those that were written."""
    log.logger.error("error")
    log.logger.critical("critical")
    log.logger.warn("warning")
    log.logger.info("info")
    log.session.info("request")
    log.logger.debug("debug")
    log.session.trace("trace")
    return [line.split()[-1] for line in log.text.splitlines()]


class LevelTests(SynchronousTestCase):
    ALL = ("error", "critical", "warning", "info", "request", "debug", "trace")

    def test_defaults(self) -> None:
        self.assertEqual(every_kind(Log()), ["error", "critical", "warning", "info", "request"])

    def test_each_setting(self) -> None:
        for name, gone in (
            ("log_error", {"error", "critical"}),
            ("log_warning", {"warning"}),
            ("log_info", {"info", "request"}),
            ("log_requests", {"request"}),
            ("log_debug", {"debug"}),
            ("log_trace", {"trace"}),
        ):
            values = {"log_debug": True, "log_trace": True, name: False}
            wanted = [kind for kind in self.ALL if kind not in gone]
            self.assertEqual(every_kind(Log("rtmp_twisted", **values)), wanted, name)

    def test_info_of_other_packages_is_debug(self) -> None:
        for namespace in "twisted.internet", "log_legacy", "rtmp_twisted_not", "stdout":
            log = Log(namespace)
            log.logger.info("noise")
            log.logger.warn("worth it")
            self.assertEqual(log.text, "warning worth it\n")
        log = Log("twisted.internet", log_debug=True)
        log.logger.info("noise")
        self.assertEqual(log.text, "debug noise\n")

    def test_trace_alone(self) -> None:
        """LOG_TRACE without LOG_DEBUG: each message of a connection, and nothing else that is on by LOG_DEBUG."""
        log = Log(log_trace=True)
        log.session.debug("details")
        log.session.trace("{kind}, {size} bytes", kind="audio", size=310)
        self.assertEqual(log.text, "trace #12 192.0.2.1 audio, 310 bytes\n")

    def test_guards(self) -> None:
        """A level that is off builds no event."""
        events: list[object] = []
        log = SessionLog(Logger("rtmp_twisted.x", observer=events.append), 1, "::1")  # type: ignore[arg-type]
        log.debug("x {y}", y=1)
        log.trace("x {y}", y=1)
        self.assertEqual(events, [])


class LineTests(SynchronousTestCase):
    def test_request(self) -> None:
        log = Log()
        log.session.info('publishing channel "{channel}"', channel="abc")
        self.assertRegex(
            log.stream.getvalue(),
            r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} info #12 192\.0\.2\.1 publishing channel "abc"\n$',
        )

    def test_session_levels(self) -> None:
        log = Log(log_debug=True, log_trace=True)
        log.session.trace("a")
        log.session.debug("b")
        log.session.warn("c")
        log.session.error("d")
        lines = [
            f"{kind} #12 192.0.2.1 {text}"
            for kind, text in zip(("trace", "debug", "warning", "error"), "abcd", strict=True)
        ]
        self.assertEqual(log.text.splitlines(), lines)

    def test_failure(self) -> None:
        log = Log()
        try:
            raise ValueError("first\n2026-01-01T00:00:00+0000 info forged\x1b[2J")
        except ValueError:
            log.session.failure("no good: {what}", what="x")
        first, *rest = log.text.splitlines()
        self.assertEqual(first, "critical #12 192.0.2.1 no good: x")
        self.assertTrue(all(line.startswith("    ") and line.isprintable() for line in rest), rest)
        self.assertIn("test_logs.py", log.text)
        self.assertIn("ValueError: first", log.text)

    def test_failure_given_and_without_words(self) -> None:
        log = Log()
        log.logger.emit(LogLevel.critical, log_failure=Failure(OSError("gone")))
        self.assertTrue(log.text.startswith("critical gone\n    Traceback"), log.text)

    def test_failure_that_cannot_be_told(self) -> None:
        class BadError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        log = Log()
        log.session.failure("still here", Failure(BadError()))
        self.assertTrue(log.text.startswith("critical #12 192.0.2.1 still here\n    "), log.text)

    def test_broken_format(self) -> None:
        log = Log()
        log.session.info("{missing}")
        self.assertEqual(len(log.text.splitlines()), 1)
        self.assertIn("info #12", log.text)

    def test_nothing_forges_a_line(self) -> None:
        for evil in (
            "\n",
            "\r",
            "\r\n",
            "\x0b",
            "\x0c",
            "\x1c",
            "\x85",
            "\u2028",
            "\u2029",
            "\x1b[2K",
            "\x00",
            "\x9b",
            "\u202e",
        ):
            log = Log()
            log.session.info("channel {channel}", channel=f"a{evil}2026-01-01T00:00:00+0000 info forged")
            lines = log.text.splitlines()
            self.assertEqual(len(lines), 1, repr(evil))
            self.assertTrue(lines[0].isprintable(), repr(evil))

    def test_printable(self) -> None:
        self.assertEqual(printable("é漢 x"), "é漢 x")
        self.assertEqual(printable("a\r\n\x1b\u2028\udc80"), r"a\r\n\x1b\u2028\udc80")

    def test_binary_stream(self) -> None:
        stream = io.BytesIO()
        Logger("rtmp_twisted.x", observer=LogPublisher(observer(Settings(), stream))).info("é")
        self.assertTrue(stream.getvalue().endswith(" info é\n".encode()))


class LoggedServiceTests(SynchronousTestCase):
    def observer_with(self, options: dict[str, Any]) -> object:
        application = Application("test")
        service = LoggedService(Settings(), MemoryReactor(), options)
        Service().setServiceParent(service)
        service.setServiceParent(application)
        self.assertIn(service, list(IService(application)))  # type: ignore[call-overload]
        return application.getComponent(ILogObserver, None)

    def test_standard_output(self) -> None:
        self.patch(sys, "stdout", io.StringIO())
        for logfile in None, "-":
            found = self.observer_with({"nodaemon": True, "logfile": logfile})
            self.assertTrue(ILogObserver.providedBy(found))

    def test_what_may_block_is_written_in_the_background(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "w", encoding="ascii") as stream:
            self.patch(sys, "stdout", stream)
            write: Any = self.observer_with({"nodaemon": True})
            Logger("rtmp_twisted.x", observer=write).info("é")
            self.assertTrue(pipe.readline().endswith(b" info \\xe9\n"))

    def test_a_file_is_written_at_once(self) -> None:
        with open(self.mktemp(), "w+", encoding="ascii") as stream:
            self.patch(sys, "stdout", stream)
            write: Any = self.observer_with({"nodaemon": True})
            Logger("rtmp_twisted.x", observer=write).info("é")
            self.assertTrue(Path(stream.name).read_text().endswith(" info \\xe9\n"))

    def test_left_to_twistd(self) -> None:
        for options in {"syslog": True}, {"logger": "x.y"}, {"logfile": "-", "nodaemon": False}:
            self.assertIdentical(self.observer_with(options), None)

    def test_unusual_parent(self) -> None:
        """What is not a twistd application still gets the service."""
        parent = LoggedService(Settings(), MemoryReactor(), {"syslog": True})
        child = LoggedService(Settings(), MemoryReactor(), {"nodaemon": True})
        child.setServiceParent(parent)
        self.assertEqual(list(parent), [child])


PLUGIN = """
from twisted.application.service import ServiceMaker
logtest = ServiceMaker("logtest", "logtest_tap", "a test", "logtest")
"""

TAP = """
from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python import usage
from rtmp_twisted.logs import LoggedService
from rtmp_twisted.settings import Settings

Options = usage.Options
log = Logger("rtmp_twisted.logtest")

class Ready(Service):
    def startService(self):
        from twisted.internet import reactor
        log.info("started {evil}", evil="a\\nb\\u00e9")
        reactor.callWhenRunning(lambda: log.info("running"))

def makeService(options):
    from twisted.internet import reactor
    service = LoggedService(Settings(), reactor, options.parent)
    Ready().setServiceParent(service)
    log.info("made")
    return service
"""


class Twistd(ProcessProtocol):
    """A twistd, what it prints, and the signal that ended it."""

    def __init__(self) -> None:
        self.output = b""
        self.signal: int | None = None
        self.running: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data
        if b"running" in self.output and not self.running.called:
            self.running.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.output += data

    def processEnded(self, reason: Failure) -> None:
        assert isinstance(reason.value, ProcessDone | ProcessTerminated)
        self.signal = reason.value.signal
        for waiting in self.running, self.ended:
            if not waiting.called:
                waiting.callback(None)


class TwistdTests(TestCase):
    """A real twistd writes our lines, on standard output and to a file; there SIGUSR1 does not end it."""

    timeout = 60

    def spawn(self, *arguments: str) -> tuple[Twistd, Any, Path]:
        from twisted.internet import reactor

        folder = Path(self.mktemp()).absolute()
        (folder / "twisted" / "plugins").mkdir(parents=True)
        (folder / "twisted" / "plugins" / "logtest_plugin.py").write_text(PLUGIN)
        (folder / "logtest_tap.py").write_text(TAP)
        code = "from twisted.scripts.twistd import run; run()"
        environ = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}
        protocol = Twistd()
        process = reactor.spawnProcess(
            protocol,
            sys.executable,
            [sys.executable, "-X", "utf8=0", "-c", code, "--nodaemon", "--pidfile=", *arguments, "logtest"],
            env=environ,
            path=str(folder),
        )
        self.addCleanup(self.end, protocol, process)
        return protocol, process, folder

    async def end(self, protocol: Twistd, process: Any) -> None:
        if not protocol.ended.called:
            process.signalProcess("KILL")
            await protocol.ended

    async def test_standard_output(self) -> None:
        protocol, process, _ = self.spawn()
        await protocol.running
        process.signalProcess("TERM")
        await protocol.ended
        lines = [line.partition(" ")[2] for line in protocol.output.decode().splitlines()]
        self.assertEqual(lines, ["info made", "info started a\\nb\\xe9", "info running"])

    async def test_log_file(self) -> None:
        protocol, process, folder = self.spawn("--logfile=rtmp.log")
        while b"running" not in _content(folder / "rtmp.log") and not protocol.ended.called:
            await _pause()
        process.signalProcess(signal.SIGUSR1)
        process.signalProcess("TERM")
        await protocol.ended
        self.assertEqual((protocol.output, protocol.signal), (b"", signal.SIGTERM))
        self.assertIn("info started a\\nbé", (folder / "rtmp.log").read_text("utf-8"))


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _pause() -> Deferred[None]:
    from twisted.internet import reactor, task

    return task.deferLater(reactor, 0.02)


class RotationTests(SynchronousTestCase):
    def test_sigusr1(self) -> None:
        before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        file = Path(self.mktemp())
        application = Application("test")
        LoggedService(Settings(), MemoryReactor(), {"logfile": str(file)}).setServiceParent(application)
        write = application.getComponent(ILogObserver)
        logger = Logger("rtmp_twisted.x", observer=write)
        logger.info("one")
        signal.raise_signal(signal.SIGUSR1)
        logger.info("two")
        self.assertIn("info one", Path(f"{file}.1").read_text())
        self.assertNotIn("info one", file.read_text())
        self.assertIn("info two", file.read_text())


def lost(count: int) -> str:
    return f"{count} lost\n"


class BackgroundStreamTests(SynchronousTestCase):
    """A log stream of which somebody, or nobody, reads the other end."""

    def setUp(self) -> None:
        self.reading, self.writing = os.pipe()
        self.addCleanup(self.close, self.reading)
        self.addCleanup(self.close, self.writing)

    def close(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def stream(self, **options: Any) -> BackgroundStream:
        return BackgroundStream(self.writing, "utf-8", lost, **options)

    def fill(self) -> bytes:
        """Fills the pipe to the last byte; returns what is in it."""
        os.set_blocking(self.writing, False)
        filled = b""
        for size in 4096, 1:
            with contextlib.suppress(BlockingIOError):
                while True:
                    filled += b"x" * os.write(self.writing, b"x" * size)
        os.set_blocking(self.writing, True)
        return filled

    def read_until(self, wanted: bytes) -> bytes:
        """Reads until ``wanted`` has come."""
        found = b""
        while not found.endswith(wanted):
            self.assertTrue(select.select([self.reading], [], [], 30)[0], f"{wanted!r} did not come: {found[-200:]!r}")
            found += os.read(self.reading, 65536)
        return found

    def eventually(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.005)

    def test_order(self) -> None:
        stream = self.stream()
        text = [f"{number} é \ud800\n" for number in range(2000)]
        for line in text:
            self.assertEqual(stream.write(line), len(line))
            stream.flush()
        self.assertEqual(
            self.read_until(b"1999 \xc3\xa9 \\ud800\n").decode(), "".join(text).replace("\ud800", "\\ud800")
        )

    def test_nobody_reads(self) -> None:
        """What is over the bound is dropped; its number stands where it would have been."""
        filled = self.fill()
        stream = self.stream(max_waiting=100)
        for number in range(20):
            stream.write(f"line {number:4}\n")
        found = self.read_until(b"lost\n").removeprefix(filled).decode()
        self.assertEqual(found, "".join(f"line {number:4}\n" for number in range(10)) + "10 lost\n")
        stream.write("again\n")
        self.assertEqual(self.read_until(b"\n"), b"again\n")

    def test_nothing_is_taken_between_what_was_lost_and_its_number(self) -> None:
        self.fill()
        stream = self.stream(max_waiting=10)
        stream.write("12345678\n")
        stream.write("12345678\n")
        stream.write("\n")  # would fit
        self.assertTrue(self.read_until(b"lost\n").endswith(b"x12345678\n2 lost\n"))

    def test_whole_lines(self) -> None:
        """A write is no larger than what a pipe takes in one piece, unless a single line is."""
        sizes: list[int] = []
        write = os.write

        def spy(descriptor: int, data: bytes) -> int:
            sizes.append(len(data))
            return write(descriptor, data)

        self.fill()
        stream = self.stream()
        stream.write("first\n")
        self.eventually(lambda: not stream._waiting)
        self.patch(os, "write", spy)
        for _ in range(100):
            stream.write("a" * 99 + "\n")
        stream.write("b" * 10_000 + "\n")
        stream.write("last\n")
        self.read_until(b"last\n")
        self.assertEqual(sizes, [4000, 4000, 2000, 10_001, 5])

    def test_the_open_file_does_not_block(self) -> None:
        """Another process that shares it has made it so."""
        filled = self.fill()
        os.set_blocking(self.writing, False)
        stream = self.stream()
        stream.write("a\n")
        time.sleep(0.05)
        self.assertEqual(self.read_until(b"a\n"), filled + b"a\n")

    def test_the_reader_goes_and_another_one_comes(self) -> None:
        path = self.mktemp()
        os.mkfifo(path)
        os.close(self.reading)
        os.close(self.writing)
        self.reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.writing = os.open(path, os.O_WRONLY)
        stream = self.stream()
        stream.write("a\n")
        self.read_until(b"a\n")
        os.close(self.reading)
        for line in "b\n", "c\n":
            stream.write(line)
            stream.drain()
        self.reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        stream.write("d\n")
        self.assertEqual(self.read_until(b"lost\n"), b"3 lost\n")
        stream.write("e\n")
        self.assertEqual(self.read_until(b"\n"), b"e\n")

    def test_drain(self) -> None:
        stream = self.stream()
        stream.drain()
        for _ in range(100):
            stream.write("a" * 99 + "\n")
        stream.drain()
        self.assertEqual(len(os.read(self.reading, 65536)), 10_000)

    def test_drain_has_an_end(self) -> None:
        self.patch(log_stream, "LAST_LINES_SECONDS", 0.3)
        self.fill()
        stream = self.stream()
        stream.write("a\n")
        for least, most in (0.3, 30), (0.0, 0.3):
            start = time.monotonic()
            stream.drain()
            self.assertTrue(least <= time.monotonic() - start < most)
        self.read_until(b"a\n")

    def test_no_thread_left(self) -> None:
        """Nothing raises; the next line is the occasion to try again."""
        stream = self.stream()
        with self.patched_start():
            stream.write("a\n")
        stream.write("b\n")
        self.assertEqual(self.read_until(b"b\n"), b"a\nb\n")

    def patched_start(self) -> contextlib.AbstractContextManager[object]:
        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        return mock.patch.object(threading.Thread, "start", refuse)

    def test_can_block(self) -> None:
        self.assertTrue(can_block(self.writing))
        one, other = socket.socketpair()
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        self.addCleanup(os.close, theirs)
        with one, other, open(self.mktemp(), "w") as file, open(os.devnull, "w") as null:
            self.assertTrue(can_block(one.fileno()))
            self.assertTrue(can_block(theirs))
            self.assertFalse(can_block(file.fileno()))
            self.assertFalse(can_block(null.fileno()))


class UnreadServer(Server):
    """A server whose output can be left unread."""

    def __init__(self, case: Any, **settings: str) -> None:
        self.exited: Deferred[None] = Deferred()
        super().__init__(case, **settings)

        case.addCleanup(self.read_again)  # else its end is not noticed

    def stop_reading(self) -> None:
        self._process.pipes[1].stopReading()

    def read_again(self) -> None:
        if 1 in self._process.pipes:
            self._process.pipes[1].startReading()

    def processExited(self, reason: Failure) -> None:
        self.exited.callback(None)


class UnreadTests(TestCase):
    """The real server, with a real pipe that nobody reads."""

    timeout = 120
    CONNECTIONS = 2500

    async def crowd(self) -> UnreadServer:
        """A server to which, unread, far more connections have come than the lines in pipe and queue are of."""
        server = UnreadServer(self, log_debug="YES")
        await server.up()
        server.stop_reading()
        for _ in range(self.CONNECTIONS):
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(b"G")
                # The server closes or resets it. A server that waits for its log does nothing, until this times out.
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(connection.recv(1), b"")
        return server

    async def test_the_server_goes_on(self) -> None:
        server = await self.crowd()
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(b"\x03" + bytes(1536))
            self.assertEqual(connection.recv(1), b"\x03")
        server.read_again()
        match = await server.until(r"^\S+ warning ([0-9]+) lines are missing here: the log was not read in time$")
        missing = server.lines.index(match.string)
        before = [line for line in server.lines[:missing] if " #" in line]
        self.assertGreater(sum(len(line) + 1 for line in before), log_stream.MAX_WAITING)
        # Two lines for each connection, and one or two for the last one.
        self.assertIn(len(before) + int(match[1]) - 2 * self.CONNECTIONS, (1, 2))
        server.signal(signal.SIGHUP)
        await server.until("no certificates to read again")

    async def test_the_end_comes(self) -> None:
        """What could not be written does not hold up the end for long; what still fits is written."""
        server = await self.crowd()
        server.signal(signal.SIGTERM)
        start = time.monotonic()
        await within(server.exited)
        self.assertLess(time.monotonic() - start, 30)
        server.read_again()
        self.assertEqual(await within(server.ended), 0)

    async def test_the_last_lines(self) -> None:
        server = UnreadServer(self)
        await server.up()
        server.stop_reading()
        server.signal(signal.SIGTERM)
        await within(server.exited)
        server.read_again()
        await within(server.ended)
        self.assertIn("SIGTERM: the server is stopping", server.lines[-1])
