"""The example applications of the documentation, run as a reader would run them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rtmp_twisted.integrations.callback import CallbackAuthority
from rtmp_twisted.integrations.coordinator import CoordinatorAuthority
from rtmp_twisted.integrations.redis import RedisCommands
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.redis_connection import RedisAddress
from tests.support.fakes import RecordingTarget, reactor, until, within
from tests.support.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SECRET = "a secret of more than thirty-two bytes"


class _Example(ProcessProtocol):
    """A running example; ``output`` is what it has printed."""

    def __init__(self) -> None:
        self.output = ""
        self.errors = ""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


class ExampleTests(TestCase):
    def run_example(self, *command: str, **environment: str) -> _Example:
        example = _Example()
        program = shutil.which(command[0]) or command[0]
        environment = {"PATH": os.environ["PATH"], **environment}
        process = reactor.spawnProcess(example, program, [program, *command[1:]], env=environment)

        def stop() -> Deferred[None]:
            try:
                process.signalProcess("KILL")
            except ProcessExitedAlready:
                return example.ended
            return within(example.ended)

        self.addCleanup(stop)
        return example

    async def listening(self, example: _Example) -> int:
        """Returns the port that the example has printed."""
        await until(lambda: "\n" in example.output or example.ended.called, "the example's first line")
        self.assertIn("listening on port ", example.output, example.errors)
        return int(example.output.split()[3])

    async def check(self, authority: Any, example: _Example) -> None:
        """The example accepts good keys, refuses bad ones, and prints the start and the stop."""
        stream_id = await within(authority.start("tv", "tv-key", "192.0.2.1"))
        self.assertTrue(stream_id.startswith("tv-"))
        await self.assertFailure(within(authority.start("tv", "radio-key", "192.0.2.1")), Refused)
        await self.assertFailure(within(authority.start("other", "", "192.0.2.1")), Refused)
        await within(authority.end("tv", "tv-key", stream_id, "192.0.2.1"))
        await until(lambda: "stop of" in example.output, "the stop")
        expected = [f"start of tv from 192.0.2.1: stream {stream_id}", f"stop of tv: stream {stream_id}"]
        self.assertEqual(example.output.splitlines()[1:], expected)

    async def test_callback(self) -> None:
        example = self.run_example(sys.executable, str(EXAMPLES / "callback_app.py"), "0", JWT_SECRET=SECRET)
        url = f"http://127.0.0.1:{await self.listening(example)}/"
        authority = CallbackAuthority(reactor, url=url, secret=SECRET)
        authority.startService()
        self.addCleanup(authority.stopService)
        await self.check(authority, example)
        stranger = CallbackAuthority(reactor, url=url, secret="another")
        error: Any = await self.assertFailure(within(stranger.start("tv", "tv-key", "192.0.2.1")), Refused)
        self.assertIn("401", str(error))
        await within(stranger.stopService())

    async def test_coordinator(self) -> None:
        example = self.run_example(sys.executable, str(EXAMPLES / "coordinator.py"), "0", CONTROL_SECRET=SECRET)
        url = f"ws://127.0.0.1:{await self.listening(example)}"
        target = RecordingTarget()
        authority = CoordinatorAuthority(reactor, Random(1), base_url=url, secret=SECRET, target=target)
        authority.startService()
        self.addCleanup(authority.stopService)
        await until(lambda: authority.connected, "the connection")
        await self.check(authority, example)
        assert example.transport is not None
        example.transport.write(b"tv\n")
        await until(lambda: target.kills, "the kill")
        self.assertEqual(target.kills, [("tv", None)])
        stranger = CoordinatorAuthority(reactor, Random(1), base_url=url, secret="another", target=target)
        await self.assertFailure(within(Deferred.fromCoroutine(stranger.open())), Exception)

    async def test_redis(self) -> None:
        server = RedisServer()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.dispose()))
        await server.start()
        target = RecordingTarget()
        address = RedisAddress("127.0.0.1", server.port)
        commands = RedisCommands(reactor, target, Random(1), address, "rtmp_commands")
        commands.startService()
        self.addCleanup(commands.stopService)
        await until(lambda: commands.connected, "the connection")
        for arguments in [("tv",), ("tv", "id")]:
            example = self.run_example(str(EXAMPLES / "kill.sh"), *arguments, REDIS_PORT=str(server.port))
            await within(example.ended)
            self.assertEqual(example.output, "1\n", example.errors)
        await until(lambda: len(target.kills) == 2, "the commands")
        self.assertEqual(target.kills, [("tv", None), ("tv", "id")])
