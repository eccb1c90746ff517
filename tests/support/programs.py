"""Programs that tests run: they are started, watched line by line, and ended with the test."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

import rtmp_twisted
from tests.support.fakes import reactor, until, within

ROOT = Path(__file__).parents[2]
"""The checkout."""

PACKAGE = Path(rtmp_twisted.__file__).parents[1]
"""Where the package under test is: the checkout, or the folder that ./tools/test has installed it into, compiled."""

SEARCH_PATH = os.pathsep.join(dict.fromkeys((str(PACKAGE), str(ROOT))))
"""PYTHONPATH of programs that need the package under test, or the tests."""

_ports = random.sample(range(10_000, 32_000), 20_000)


def free_port() -> int:
    """A TCP port that is free now. It is below those that the kernel gives to outgoing connections, and this function
    has not returned it before."""
    while True:
        port = _ports.pop()
        with socket.socket(socket.AF_INET6) as probe, contextlib.suppress(OSError):
            probe.bind(("::", port))
            return port


class Case(Protocol):
    """The methods of a test case that a program uses."""

    def addCleanup(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None: ...

    def mktemp(self) -> str: ...


class Program(ProcessProtocol):
    """A running program. ``lines`` is what it has printed so far, to stdout or stderr."""

    def __init__(self, case: Case, *command: str, **environment: str) -> None:
        self.lines: list[str] = []
        self.ended: Deferred[int] = Deferred()
        """Fires with the exit status, or minus the signal's number."""
        self._rest = {1: b"", 2: b""}
        self._waiting: list[tuple[re.Pattern[str], Deferred[re.Match[str]]]] = []
        self.name = Path(command[0]).name
        path = shutil.which(command[0])
        if path is None:
            raise AssertionError(f"{command[0]} is not installed")
        inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": SEARCH_PATH}
        env: Mapping[str, str] = {**inherited, **environment}
        self._process: Any = reactor.spawnProcess(self, path, [path, *command[1:]], env=env)
        case.addCleanup(self.kill)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._rest[childFD] = (self._rest[childFD] + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace").rstrip("\r"))

    def processEnded(self, reason: Failure) -> None:
        for rest in self._rest.values():
            if rest:
                self._line(rest.decode("utf-8", "replace"))
        waiting, self._waiting = self._waiting, []
        for pattern, deferred in waiting:
            deferred.errback(AssertionError(f"{self} ended without {pattern.pattern!r}"))
        status: Any = reason.value
        self.ended.callback(-status.signal if status.signal else status.exitCode or 0)

    def until(self, pattern: str) -> Deferred[re.Match[str]]:
        """Fires when any line, from the first on, matches ``pattern``; fails if none does in time."""
        compiled = re.compile(pattern)
        for line in self.lines:
            match = compiled.search(line)
            if match:
                done: Deferred[re.Match[str]] = Deferred()
                done.callback(match)
                return done
        waiting: Deferred[re.Match[str]] = Deferred()
        self._waiting.append((compiled, waiting))
        return within(waiting)

    def signal(self, number: int) -> None:
        """Sends a signal, if the program still runs."""
        with contextlib.suppress(ProcessExitedAlready):
            self._process.signalProcess(number)

    def kill(self) -> Deferred[None]:
        """Ends it at once; fires when it has ended."""
        self.signal(signal.SIGKILL)
        gone: Deferred[None] = Deferred()

        def tell(result: Any) -> Any:
            gone.callback(None)
            return result

        self.ended.addBoth(tell)
        return within(gone)

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def __str__(self) -> str:
        return "\n".join([f"{self.name}, which printed:", *self.lines[-30:]])

    def _line(self, line: str) -> None:
        self.lines.append(line)
        for item in list(self._waiting):
            match = item[0].search(line)
            if match:
                self._waiting.remove(item)
                item[1].callback(match)


class Server(Program):
    """The server as a person starts it, on a free port unless ``rtmp_port`` is given. Keyword arguments are settings,
    for example ``rtmp_chunk_size="128"``. TEST_WORKERS in the environment is how many workers it has by default.
    ``wrapper`` is a command that runs the server, such as env with variables."""

    host = "127.0.0.1"
    """Where clients find it."""

    def __init__(self, case: Case, *wrapper: str, **settings: str) -> None:
        self.port = int(settings.get("rtmp_port") or free_port())
        workers = os.environ.get("TEST_WORKERS", "1")
        values = {"rtmp_port": str(self.port), "concurrent_limit_whitelist": "*", "workers": workers, **settings}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
        command = "from twisted.scripts.twistd import run; run()"
        directory = case.mktemp()
        os.mkdir(directory)
        super().__init__(
            case,
            *wrapper,
            *(sys.executable, "-c", command, "--nodaemon", "--pidfile=", f"--rundir={directory}", "rtmp", *options),
        )

    def kill(self) -> Deferred[None]:
        """Ends it at once; fires when it has ended, and its workers too."""
        return super().kill().addCallback(lambda _: Deferred.fromCoroutine(self._workers_end()))

    async def _workers_end(self) -> None:
        found = [re.search(r" worker \d+ is ready \(process (\d+)\)", line) for line in self.lines]
        workers = [Path(f"/proc/{match[1]}") for match in found if match]
        await until(lambda: not any(map(Path.exists, workers)), "the workers' end")
        if workers:
            await deferLater(reactor, 0)  # in which their clients hear of it

    @property
    def workers(self) -> dict[int, int]:
        """The process of each worker, by its number."""
        found = [re.search(r" worker (\d+) is ready \(process (\d+)\)", line) for line in self.lines]
        return {int(match[1]): int(match[2]) for match in found if match}

    def signal_all(self, number: int) -> None:
        """Sends a signal to it and to its workers."""
        self.signal(number)
        for pid in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def up(self) -> Deferred[re.Match[str]]:
        """Fires when it listens."""
        return self.until(r" info RTMP on ")

    def url(self, channel: str = "channel", key: str = "key") -> str:
        return f"rtmp://127.0.0.1:{self.port}/{channel}/{key}"
