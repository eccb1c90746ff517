"""The control channel between two processes, here in one."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rtmp_twisted.cluster.control import Control, Failed, Gone, attach
from tests.support.fakes import reactor, until, within


class ControlTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.gone: list[str] = []
        self.one = Control({}, lambda: self.gone.append("one"))
        self.other = Control({}, lambda: self.gone.append("other"))
        for end, control in zip(socket.socketpair(), (self.one, self.other), strict=True):
            end.setblocking(False)
            attach(reactor, end.fileno(), control)
            end.close()

    async def tearDown(self) -> None:  # type: ignore[override]
        self.one.abort()
        await until(lambda: len(self.gone) == 2, "both ends")

    async def test_long_values(self) -> None:
        """Longer than AMP takes, both ways, in calls that overlap."""
        self.other.handlers["echo"] = lambda text: {"text": text[::-1]}
        texts = [str(number) * 100_000 for number in range(4)] + ["ü\ud800\0"]
        answers = [self.one.call("echo", text=text) for text in texts]
        for text, answer in zip(texts, answers, strict=True):
            self.assertEqual((await within(answer))["text"], text[::-1])

    async def test_descriptors(self) -> None:
        """Each call gets its own, also among long values."""
        received: list[str] = []

        def take(descriptor: int, text: str) -> None:
            received.append(os.read(descriptor, 10).decode())
            os.close(descriptor)

        self.other.handlers["take"] = take
        answers = []
        for number in range(8):
            reading, writing = os.pipe()
            os.write(writing, b"pipe %d" % number)
            os.close(writing)
            answer = self.one.call("take", descriptor=reading, text="x" * 70_000)
            answers.append((reading, answer))
        for reading, answer in answers:
            await within(answer)
            os.close(reading)
        self.assertEqual(received, [f"pipe {number}" for number in range(8)])

    async def test_a_bug(self) -> None:
        """It is logged, and ends the call, not the channel."""

        def fail() -> None:
            raise RuntimeError("a bug")

        self.other.handlers["fail"] = fail
        self.other.handlers["well"] = lambda: {"well": True}
        with self.assertRaises(Failed):
            await within(self.one.call("fail"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        with self.assertRaises(Failed):
            await within(self.one.call("unknown"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(await within(self.one.call("well")), {"well": True})

    async def test_the_end(self) -> None:
        """Who waits for an answer hears of it, and so does who asks later."""
        waiting: Deferred[Any] = Deferred()
        self.other.handlers["wait"] = lambda: waiting
        answer = self.one.call("wait")
        self.other.abort()
        with self.assertRaises(Gone):
            await within(answer)
        with self.assertRaises(Gone):
            await within(self.one.call("wait"))
        self.one.tell("wait")
        waiting.callback({})
