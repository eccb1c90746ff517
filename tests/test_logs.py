"""The log: which events it lets through, what a line looks like, that nothing forges one, and twistd's options."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Application, IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.logs import LoggedService, SessionLog, observer, printable
from rtmp_twisted.settings import Settings

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
        service = LoggedService(Settings(), options)
        Service().setServiceParent(service)
        service.setServiceParent(application)
        self.assertIn(service, list(IService(application)))  # type: ignore[call-overload]
        return application.getComponent(ILogObserver, None)

    def test_standard_output(self) -> None:
        self.patch(sys, "stdout", io.StringIO())
        for logfile in None, "-":
            found = self.observer_with({"nodaemon": True, "logfile": logfile})
            self.assertTrue(ILogObserver.providedBy(found))

    def test_left_to_twistd(self) -> None:
        for options in {"syslog": True}, {"logger": "x.y"}, {"logfile": "-", "nodaemon": False}:
            self.assertIdentical(self.observer_with(options), None)

    def test_unusual_parent(self) -> None:
        """What is not a twistd application still gets the service."""
        parent = LoggedService(Settings(), {"syslog": True})
        child = LoggedService(Settings(), {"nodaemon": True})
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
    service = LoggedService(Settings(), options.parent)
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
        LoggedService(Settings(), {"logfile": str(file)}).setServiceParent(application)
        write = application.getComponent(ILogObserver)
        logger = Logger("rtmp_twisted.x", observer=write)
        logger.info("one")
        signal.raise_signal(signal.SIGUSR1)
        logger.info("two")
        self.assertIn("info one", Path(f"{file}.1").read_text())
        self.assertNotIn("info one", file.read_text())
        self.assertIn("info two", file.read_text())
