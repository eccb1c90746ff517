"""Servers that do what they should not: each is a state of that push or pull, in one clear line, and of nobody else."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.logger import LogLevel

from rtmp_twisted.relay.client import ANSWER_SECONDS, MAX_UNASKED, SHOWN
from rtmp_twisted.relay.link import BOUNDARY_SECONDS, MAX_DELAY, MAX_REDIRECTS
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import Message
from tests.relay.case import Node, RelayCase, Stub
from tests.support.memory import Client
from tests.support.rtmp_client import AVC_HEADER, avc

URL = "rtmp://stub/app/se-cret"


class FaultCase(RelayCase):
    """A node with one push, and one to a server that does all right."""

    def setUp(self) -> None:
        super().setUp()
        self.bad, self.good = self.stub(), self.stub("good")
        self.here: Node = self.node("here", push=f"tv={URL} tv=rtmp://good/app/key")
        self.publisher: Client = self.here.publisher()
        self.good.connection.accept()

    def problem(self) -> str:
        """What the one's last error is; the other one notices nothing, and the log has one line."""
        bad, good = self.here.relays.statuses("tv")
        self.begin(self.publisher, avc(0, True))
        self.assertGreater(len(self.good.connection.media()), 1)
        self.assertEqual((good.state, good.last_error, good.reconnects), ("live", "", 0))
        warnings = [line for line in self.log.lines(LogLevel.warn) if bad.last_error in line]
        self.assertEqual(len(warnings), 1, self.log.lines(LogLevel.warn))
        self.assertIn("rtmp://stub/app/*** (push of channel 'tv')", warnings[0])
        self.assertNotIn("se-cret", self.log.everything())
        self.assertEqual(self.log.lines(LogLevel.critical), [])
        return bad.last_error

    @property
    def state(self) -> str:
        return self.here.relays.statuses("tv")[0].state


class FaultTests(FaultCase):
    def test_never_answers(self) -> None:
        """In each phase."""
        there = self.bad.connection
        self.pass_time(ANSWER_SECONDS)
        self.assertEqual(self.problem(), f"no answer to connect within {ANSWER_SECONDS} s")
        self.assertTrue(there.lost)
        self.pass_time(1)
        self.bad.connection.answer("connect", None, {})
        self.pass_time(ANSWER_SECONDS)
        self.assertEqual(self.problem(), f"no answer to createStream within {ANSWER_SECONDS} s")
        self.pass_time(2)
        self.bad.connection.answer("connect", None, {})
        self.bad.connection.answer("createStream", None, 1.0)
        self.pass_time(ANSWER_SECONDS)
        self.assertEqual(self.problem(), f"no answer to publish within {ANSWER_SECONDS} s")

    def test_no_handshake(self) -> None:
        self.bad.connection.close()
        silent = _Silent()
        self.network.hosts["stub"] = lambda: silent
        self.pass_time(1)
        self.assertIsNotNone(silent.transport)
        self.pass_time(10)
        self.assertEqual(self.problem(), "no handshake within 10 s")

    def test_closes_in_each_phase(self) -> None:
        phases: list[Any] = [
            lambda there: None,
            lambda there: there.answer("connect", None, {}),
            lambda there: there.answer("createStream", None, 1.0),
            lambda there: there.status("NetStream.Publish.Start"),
        ]
        for count in range(len(phases) + 1):
            there = self.bad.connection
            for phase in phases[:count]:
                phase(there)
            there.close()
            self.assertEqual(self.state, "trying again")
            self.assertEqual(self.here.relays.statuses("tv")[0].last_error, "it closed the connection")
            while self.bad.connection is there:
                self.pass_time(1)
        self.assertEqual(self.here.relays.statuses("tv")[0].reconnects, 1)

    def test_garbage(self) -> None:
        for garbage in b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01", b"\x09" + bytes(3072):
            with self.subTest(garbage):
                self.setUp()
                self.bad.connection.close()
                self.network.hosts["stub"] = lambda garbage=garbage: _Silent(garbage)  # type: ignore[misc]
                self.pass_time(1)
                self.assertIn("RTMP", self.problem())

    def test_garbage_behind_the_handshake(self) -> None:
        for garbage in b"\x03" + bytes(11), b"\xff" * 5000:
            with self.subTest(garbage):
                self.setUp()
                self.bad.connection.transport.write(garbage)
                self.settle()
                self.pass_time(11)
                self.assertNotEqual(self.problem(), "")

    def test_commands_that_mean_nothing(self) -> None:
        there = self.bad.connection
        there.accept()
        for body in (b"", b"\x02", b"\x02\0\x08onStatus", b"\0" * 9):
            there.send(Message(messages.COMMAND_AMF0, 0, 0, b"\x02\0\x01x\0" + bytes(8) + body[:0]))
        there.send(messages.command("onStatus", 0, None, None), messages.command("onStatus", 0, None, {"code": 1.0}))
        there.send(
            messages.command("_result", 77, None), messages.command("_error", 1, None), messages.command("close", 0)
        )
        self.assertEqual(self.state, "live")
        there.send(Message(messages.COMMAND_AMF0, 0, 0, b"\x03nonsense"))
        self.assertNotEqual(self.problem(), "")

    def test_a_stream_that_is_none(self) -> None:
        for number in None, "1", float("nan"), 0.0, 0.5, -1.0, 1e300:
            self.setUp()
            self.bad.connection.answer("connect", None, {})
            self.bad.connection.answer("createStream", None, number)
            self.assertEqual(self.problem(), "createStream was answered without a stream")

    def test_refused(self) -> None:
        there = self.bad.connection
        info = {
            "level": "error",
            "code": "NetConnection.Connect.Rejected",
            "description": "No\nse-cret\x1b " + "x" * 300,
        }
        there.answer("connect", None, dict(info), error=True)
        problem = self.problem()
        self.assertTrue(problem.startswith("it refused that (NetConnection.Connect.Rejected: No *** "), problem)
        self.assertLess(len(problem), SHOWN + 100)
        self.assertTrue(there.lost)

    def test_a_bad_key(self) -> None:
        self.bad.connection.answer("connect", None, {})
        self.bad.connection.answer("createStream", None, 1.0)
        self.bad.connection.status("NetStream.Publish.BadName", "error", "the key se-cret is wrong")
        self.assertEqual(self.problem(), "it refused the key (NetStream.Publish.BadName: the key *** is wrong)")

    def test_ended_later(self) -> None:
        self.bad.connection.accept()
        self.bad.connection.status("NetStream.Publish.BadName", "error")
        self.assertEqual(self.problem(), "it refused the key (NetStream.Publish.BadName)")

    def test_sends_media_back(self) -> None:
        there = self.bad.connection
        there.accept()
        there.send(AVC_HEADER, avc(0, True))
        self.assertEqual(self.state, "live")
        self.pass_time(1)
        there.send(*[avc(0, True, bytes(30_000))] * (MAX_UNASKED // 30_000 + 1))
        self.pass_time(1)
        self.assertEqual(self.problem(), "it sends data that nobody has asked for")

    def test_endless_commands(self) -> None:
        there = self.bad.connection
        there.accept()
        there.send(*[messages.command("onBWDone", 0, None)] * 150)
        self.assertEqual(self.problem(), "more than 100 commands in a second")

    def test_a_message_without_an_end(self) -> None:
        there = self.bad.connection
        there.accept()
        there.send(Message(messages.COMMAND_AMF0, 0, 0, bytes(70_000)))
        self.assertIn("70000", self.problem())

    def test_retries(self) -> None:
        """One connection at a time, less and less often, for ever; and at once when there was one that lasted."""
        self.bad.connection.close()
        del self.network.hosts["stub"]
        self.pass_time(400)
        times = [time for time, host in self.network.calls if host == "stub"]
        waits = [later - sooner for sooner, later in pairwise(times[1:])]
        self.assertTrue(15 <= len(times) <= 40, times)
        self.assertTrue(all(MAX_DELAY / 2 <= wait <= MAX_DELAY for wait in waits[-5:]), waits)
        self.assertEqual(self.problem(), "Connection was refused by other side")
        bad = Stub(self.network, "stub")
        while not bad.connections:
            self.pass_time(1)
        bad.connection.accept()
        self.assertEqual(self.state, "live")
        self.pass_time(30)
        bad.connection.close()
        self.pass_time(1)
        self.assertEqual(len(bad.connections), 2)
        self.assertTrue(bad.connections[0].lost)


class ElsewhereTests(FaultCase):
    """Redirects, and requests to reconnect."""

    def redirect(self, url: str) -> None:
        info: Any = {"level": "error", "code": "NetConnection.Connect.Rejected", "ex": {"code": 302.0, "redirect": url}}
        [one for one in self.bad.connections if not one.lost][-1].answer("connect", None, info, error=True)
        self.pass_time(1)

    def test_redirect(self) -> None:
        other = self.stub("other")
        self.redirect("rtmp://other:1936/elsewhere")
        connect = other.connection.commands[0].argument(0)
        assert isinstance(connect, dict)
        self.assertEqual((connect["app"], connect["tcUrl"]), ("elsewhere", "rtmp://other:1936/elsewhere"))
        self.assertIn("it sends us elsewhere", self.problem())
        other.connection.accept()
        self.assertEqual(other.connection.commands[-1].argument(1), "se-cret")
        self.assertEqual(self.state, "live")

    def test_what_is_not_followed(self) -> None:
        for url, why in (
            ("http://other/x", "'http'"),
            ("rtmp://", "no host"),
            ("", "Rejected"),
            ("rtmp://[::1", "read"),
            ("//[", "read"),
        ):
            self.setUp()
            self.redirect(url)
            self.assertIn(why, self.problem())

    def test_in_circles(self) -> None:
        for number in range(MAX_REDIRECTS + 1):
            self.redirect("rtmp://stub/again" if number % 2 else "rtmp://stub/app")
        calls = len(self.network.calls)
        self.assertEqual(self.state, "trying again" if calls == len(self.network.calls) else "connecting")
        self.assertIn("elsewhere", self.problem())
        self.pass_time(1)
        connect = self.bad.connection.commands[0].argument(0)
        assert isinstance(connect, dict)
        self.assertEqual(connect["app"], "app")

    def reconnect(self, url: str = "") -> None:
        """The bytes of the specification's example, Enhanced RTMP v2, "Reconnect Request"."""
        pairs = b"".join(
            len(name).to_bytes(2, "big") + name + b"\x02" + len(value).to_bytes(2, "big") + value
            for name, value in (
                *([(b"tcUrl", url.encode())] if url else []),
                (b"code", b"NetConnection.Connect.ReconnectRequest"),
                (b"description", b"The streaming server is undergoing updates."),
                (b"level", b"status"),
            )
        )
        body = b"\x02\0\x08onStatus" + b"\0" + bytes(8) + b"\x05" + b"\x03" + pairs + b"\0\0\x09"
        self.bad.connection.send(Message(20, 0, 0, body))

    def test_reconnect_request(self) -> None:
        """Media goes on to the next keyframe, which is the first on the next connection."""
        first = self.bad.connection
        first.accept()
        self.begin(self.publisher, avc(0, True, b"one"))
        self.reconnect()
        self.begin(self.publisher, avc(40, False, b"two"))
        self.assertFalse(first.lost)
        self.begin(self.publisher, avc(80, True, b"three"), avc(120, False, b"four"))
        self.assertTrue(first.lost)
        self.assertEqual(first.names()[-2:], ["FCUnpublish", "deleteStream"])
        self.pass_time(1)
        second = self.bad.connection
        second.accept()
        sent = [[message.body[5:] for message in one.media() if message.body[1]] for one in (first, second)]
        self.assertEqual(sent, [[b"one", b"two"], [b"three", b"four"]])
        self.assertEqual(self.here.relays.statuses("tv")[0].reconnects, 1)
        self.assertEqual(self.problem(), "it asked to reconnect")

    def test_reconnect_elsewhere(self) -> None:
        for url, host in (("rtmp://other/live", "other"), ("//other/live", "other"), ("/live", "stub")):
            self.setUp()
            other = self.bad if host == "stub" else self.stub(host)
            self.bad.connection.accept()
            self.begin(self.publisher, avc(0, True))
            self.reconnect(url)
            self.begin(self.publisher, avc(40, True))
            self.pass_time(1)
            connect = other.connection.commands[0].argument(0)
            assert isinstance(connect, dict)
            self.assertEqual((connect["app"], connect["tcUrl"]), ("live", f"rtmp://{host}/live"))

    def test_reconnect_without_a_keyframe(self) -> None:
        self.bad.connection.accept()
        self.reconnect()
        self.reconnect()
        self.pass_time(BOUNDARY_SECONDS - 1)
        self.assertEqual(len(self.bad.connections), 1)
        self.pass_time(2)
        self.assertEqual(len(self.bad.connections), 2)

    def test_reconnect_without_an_end(self) -> None:
        """A server that asks for it whenever it is called is not called more often than one that refuses."""
        for _ in range(40):
            there = self.bad.connection
            if there.names() == ["connect"]:
                there.accept()
                self.reconnect()
                there.close()
            self.pass_time(1)
        self.assertTrue(4 <= len(self.bad.connections) <= 10, self.network.calls)

    def test_a_bug(self) -> None:
        """It ends the attempt, with a traceback in the log; the next one is made."""
        [push, _] = [push for pushes in self.here.relays._pushes._of.values() for push in pushes.values()]
        self.patch(push, "prepare", lambda session: 1 / 0)
        self.bad.connection.close()
        self.pass_time(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.state, "trying again")
        self.assertTrue(self.bad.connection.lost)
        self.assertEqual(len(self.bad.connections), 2)

    def test_reconnect_to_nowhere(self) -> None:
        self.bad.connection.accept()
        self.reconnect("mailto:somebody")
        self.assertEqual(self.state, "live")


class _Silent:
    """A server that says one thing, and no more."""

    def __init__(self, says: bytes = b"") -> None:
        self.transport: Any = None
        self._says = says

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._says)

    def dataReceived(self, data: bytes) -> None: ...

    def connectionLost(self, reason: Any) -> None: ...
