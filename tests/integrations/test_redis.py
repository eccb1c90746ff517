"""Redis commands: parsed from text, and received from a real redis-server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted import reconnecting
from rtmp_twisted.integrations.redis import Kill, RedisCommands, apply_message, parse_command
from rtmp_twisted.redis_connection import RedisAddress, read_trust_root
from tests.support.certificates import Authority
from tests.support.fakes import Log, RecordingTarget, reactor, until
from tests.support.redis_server import RedisServer, free_port

PASSWORD = "hunter2-the-password"
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$13\r\nrtmp_commands\r\n:1\r\n"


class ParseTests(SynchronousTestCase):
    def test_commands(self) -> None:
        for text, expected in [
            ("kill-session>tv", Kill("tv")),
            ("KILL-SESSION>tv", Kill("tv")),
            ("Kill-Session>TV", Kill("TV")),
            (" kill-session >tv\r\n", Kill("tv")),
            ("kill-session>tv|", Kill("tv")),
            ("kill-session>tv|more|still more", Kill("tv")),
            ("kill-session>", Kill("")),
            ("close-stream>tv|id", Kill("tv", "id")),
            ("CLOSE-STREAM>tv|ID", Kill("tv", "ID")),
            ("close-stream>tv|id|more", Kill("tv", "id")),
            ("close-stream>tv|a>b", Kill("tv", "a>b")),
            ("close-stream>tv|", Kill("tv", "")),
            ("close-stream>tv||id", Kill("tv", "")),
            ("close-stream>ünï|çode\n", Kill("ünï", "çode")),
        ]:
            self.assertEqual(parse_command(text), expected, repr(text))

    def test_not_commands(self) -> None:
        for text in [
            "",
            ">",
            "|",
            "kill-session",
            "close-stream>tv",
            "killsession>tv",
            "what>tv|id",
            "\x00>\x00",
            "\n",
        ]:
            self.assertIsNone(parse_command(text), repr(text))

    @given(st.binary() | st.text().map(lambda text: f"close-stream>{text}".encode(errors="surrogatepass")))
    def test_nothing_raises(self, message: bytes) -> None:
        apply_message(message, RecordingTarget())

    def test_messages_that_are_ignored(self) -> None:
        target = RecordingTarget()
        messages: list[object] = [
            b"kill-session>\xff",
            b"kill-session>" + b"x" * 100_000,
            None,
            17,
            "kill-session>tv",
            [],
        ]
        for message in messages:
            apply_message(message, target)
        self.assertEqual(target.kills, [])

    def test_stream_ids_are_not_logged(self) -> None:
        """Without a callback they are the stream keys."""
        log = Log(self)
        for message in [b"close-stream>tv|hunter2", b"close-strem>tv|hunter2", b"hunter2"]:
            apply_message(message, RecordingTarget())
        self.assertEqual(len(log.lines()), 3)
        self.assertNotIn("hunter2", log.everything())


class RedisCase(TestCase):
    def setUp(self) -> None:
        self.log = Log(self)
        self.target = RecordingTarget()
        self.target.on_air.add("tv")
        # Delays are between the half and the whole of this; a back-off of seconds would only be waited for.
        self.patch(reconnecting.ReconnectingClient, "max_delay", 0.1)

    async def server(self, **options: Any) -> RedisServer:
        server = RedisServer(**options)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.dispose()))
        await server.start()
        return server

    def commands(
        self, port: int, channel: str = "rtmp_commands", clock: Clock | None = None, **options: Any
    ) -> RedisCommands:
        address = RedisAddress("127.0.0.1", port, **options)
        commands = RedisCommands(reactor, self.target, Random(1), address, channel, clock)
        commands.startService()
        self.addCleanup(commands.stopService)
        return commands

    def play(self, *answers: bytes) -> int:
        """Returns the port of a server that gives these answers, and then none."""
        port = reactor.listenTCP(0, _Plays(*answers), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def check_commands(self, server: RedisServer, commands: RedisCommands, *login: str) -> None:
        """Fails unless commands arrive."""
        await until(lambda: commands.connected, "the connection")
        self.target.kills.clear()
        self.assertEqual(server.publish("rtmp_commands", "kill-session>tv", *login), 1)
        await until(lambda: self.target.kills, "the command")
        self.assertEqual(self.target.kills, [("tv", None)])

    def check_password_is_secret(self) -> None:
        self.assertTrue(self.log.events)
        self.assertNotIn(PASSWORD, self.log.everything())


class ServerTests(RedisCase):
    async def test_without_password(self) -> None:
        server = await self.server()
        await self.check_commands(server, self.commands(server.port))

    async def test_messages(self) -> None:
        server = await self.server()
        commands = self.commands(server.port)
        await until(lambda: commands.connected)
        messages: list[bytes | str] = [
            "kill-session>tv",
            b"\xff\xfe\x00>\r\n$5\r\n*3\r\n",
            "what is this",
            "",
            "123",
            "4.5",
            "KILL-SESSION>radio|more",
            b"x" * 200_000,
            "\r\n\r\n",
            "close-stream>tv|id|",
            "message",
            "Close-Stream>tv|",
        ]
        for message in messages:
            server.publish("rtmp_commands", message)
        server.publish("other_channel", "kill-session>never")
        server.publish("rtmp_commands", "kill-session>last")
        await until(lambda: ("last", None) in self.target.kills, "the last command")
        expected = [("tv", None), ("radio", None), ("tv", "id"), ("tv", ""), ("last", None)]
        self.assertEqual(self.target.kills, expected)
        self.assertTrue(commands.connected)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_other_channel(self) -> None:
        server = await self.server()
        commands = self.commands(server.port, channel="ünï code")
        await until(lambda: commands.connected)
        server.publish("ünï code", "kill-session>tv")
        await until(lambda: self.target.kills)

    async def test_password(self) -> None:
        server = await self.server(options={"requirepass": PASSWORD})
        await self.check_commands(server, self.commands(server.port, password=PASSWORD), PASSWORD)
        self.check_password_is_secret()

    async def test_acl_user(self) -> None:
        rules = f"robot on >{PASSWORD} resetchannels &rtmp_commands -@all +subscribe +ping"
        server = await self.server(options={"user": rules})
        commands = self.commands(server.port, username="robot", password=PASSWORD)
        await self.check_commands(server, commands)
        self.check_password_is_secret()

    async def test_refused(self) -> None:
        """The log tells each problem once, in a line that says what is wrong. The server goes on trying."""
        server = await self.server(
            options={"requirepass": PASSWORD, "user": f"other on >{PASSWORD} resetchannels -@all +subscribe"}
        )
        cases: list[tuple[dict[str, Any], str]] = [
            ({"password": PASSWORD + "x"}, "AUTH was refused (WRONGPASS)"),
            ({"username": "nobody", "password": PASSWORD}, "AUTH was refused (WRONGPASS)"),
            ({}, "SUBSCRIBE was refused (NOAUTH)"),
            ({"username": "other", "password": PASSWORD}, "SUBSCRIBE was refused (NOPERM)"),
        ]
        for options, expected in cases:
            commands = self.commands(server.port, **options)
            await until(partial(self._retried, expected, 3), "three attempts")
            self.assertFalse(commands.connected)
            await commands.stopService()
            (warning,) = self.log.lines(LogLevel.warn)
            self.assertIn(expected, warning)
            self.log.events.clear()
        await self.check_commands(server, self.commands(server.port, password=PASSWORD), PASSWORD)
        self.check_password_is_secret()

    def _retried(self, line: str, times: int) -> bool:
        return sum(line in logged for logged in self.log.lines()) >= times

    async def test_password_where_none_is_wanted(self) -> None:
        server = await self.server()
        self.commands(server.port, password=PASSWORD)
        await until(lambda: self.log.lines(LogLevel.warn))
        self.assertIn("AUTH was refused", self.log.lines(LogLevel.warn)[0])
        self.check_password_is_secret()

    async def test_restart_in_the_middle(self) -> None:
        server = await self.server()
        commands = self.commands(server.port)
        for _ in range(3):
            await self.check_commands(server, commands)
            await server.stop()
            await until(lambda: not commands.connected, "the loss")
            await server.start()
        await self.check_commands(server, commands)

    async def test_unreachable_at_the_start(self) -> None:
        server = await self.server()
        await server.stop()
        commands = self.commands(server.port)
        await until(partial(self._retried, "refused", 5), "five attempts")
        self.assertEqual(len(self.log.lines(LogLevel.warn)), 1)
        await server.start()
        await self.check_commands(server, commands)

    async def test_stops_while_unreachable(self) -> None:
        commands = self.commands(free_port())
        await until(lambda: self.log.lines(LogLevel.warn))
        await commands.stopService()
        self.assertFalse(commands.connected)

    async def test_killed_by_the_server(self) -> None:
        server = await self.server()
        commands = self.commands(server.port)
        await self.check_commands(server, commands)
        server.ask([b"CLIENT", b"KILL", b"TYPE", b"pubsub"])
        await until(lambda: not commands.connected, "the loss")
        await self.check_commands(server, commands)


class TLSTests(RedisCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        self.authority = Authority(self.directory, "trusted")
        self.other = Authority(self.directory, "other")

    async def test_private_authority(self) -> None:
        issued = self.authority.issue("127.0.0.1")
        server = await self.server(tls=(self.authority, issued), options={"requirepass": PASSWORD})
        commands = self.commands(server.port, password=PASSWORD, tls=True, tls_ca=str(self.authority.certificate))
        await self.check_commands(server, commands, PASSWORD)
        await server.stop()
        await until(lambda: not commands.connected, "the loss")
        await server.start()
        await self.check_commands(server, commands, PASSWORD)
        self.check_password_is_secret()

    async def test_file_with_several_authorities(self) -> None:
        bundle = self.directory / "bundle.pem"
        bundle.write_bytes(self.other.certificate.read_bytes() + b"\ntext\n" + self.authority.certificate.read_bytes())
        server = await self.server(tls=(self.authority, self.authority.issue("127.0.0.1")))
        await self.check_commands(server, self.commands(server.port, tls=True, tls_ca=str(bundle)))

    async def test_bad_certificates(self) -> None:
        """The password is not sent to a server with a bad certificate."""
        for issuer, name, ca in [
            (self.other, "127.0.0.1", str(self.authority.certificate)),
            (self.authority, "127.0.0.2", str(self.authority.certificate)),
            (self.authority, "127.0.0.1", ""),
        ]:
            server = await self.server(tls=(issuer, issuer.issue(name)), options={"requirepass": PASSWORD})
            commands = self.commands(server.port, password=PASSWORD, tls=True, tls_ca=ca)
            await until(lambda: self.log.lines(LogLevel.warn), "the refusal")
            self.assertIn("TLS", self.log.lines(LogLevel.warn)[0])
            self.assertFalse(commands.connected)
            await commands.stopService()
            await server.stop()
            self.log.events.clear()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_plain_server(self) -> None:
        """Each side waits for the other one. The time limit for opening ends it."""
        self.patch(reconnecting.ReconnectingClient, "opening_timeout", 0.5)
        server = await self.server()
        commands = self.commands(server.port, tls=True, tls_ca=str(self.authority.certificate))
        await until(lambda: self.log.lines(LogLevel.warn), "the refusal")
        self.assertFalse(commands.connected)

    def test_authority_files(self) -> None:
        (self.directory / "empty.pem").write_text("")
        (self.directory / "junk.pem").write_bytes(b"\xff\x00")
        (self.directory / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        for name in ["empty.pem", "junk.pem", "broken.pem", "missing.pem", "."]:
            with self.assertRaises(ValueError) as caught:
                read_trust_root(str(self.directory / name))
            self.assertIn(name, str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))


class _Plays(Factory):
    """A server that answers all data with the next of its texts."""

    noisy = False

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.heard = b""

    def buildProtocol(self, addr: object) -> Protocol:
        factory = self

        class Plays(Protocol):
            def dataReceived(self, data: bytes) -> None:
                factory.heard += data
                assert self.transport is not None
                if factory.answers:
                    self.transport.write(factory.answers.pop(0))

        return Plays()


class HostileServerTests(RedisCase):
    async def test_not_redis(self) -> None:
        for answer in [
            b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000,
            b"\xff\xfe\r\n",
            b"*1\r\n" * 20_000 + b"x",
            b"*-5\r\n$-7\r\n:x\r\n",
            b"x" * 100_000,
            b"$999999999\r\n" + b"x" * 1_500_000,
            b"*3\r\n*0\r\n:1\r\n+x\r\n" * 50,
            bytes(range(256)) * 100,
        ]:
            self.patch(reconnecting.ReconnectingClient, "opening_timeout", 0.5)
            commands = self.commands(self.play(answer))
            await until(lambda: self.log.lines(LogLevel.warn), "the end of it")
            self.assertFalse(commands.connected)
            await commands.stopService()
            self.log.events.clear()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_says_nothing(self) -> None:
        self.patch(reconnecting.ReconnectingClient, "opening_timeout", 0.2)
        self.commands(self.play())
        await until(lambda: self.log.lines(LogLevel.warn))
        self.assertIn("no answer in time", self.log.lines(LogLevel.warn)[0])

    async def test_repeats_the_password(self) -> None:
        """A server without AUTH repeats it in its error."""
        answer = f"-ERR unknown command `AUTH`, with args beginning with: `{PASSWORD}`, \r\n".encode()
        self.commands(self.play(answer), password=PASSWORD)
        await until(lambda: self.log.lines(LogLevel.warn))
        self.check_password_is_secret()

    async def test_junk_after_subscribing(self) -> None:
        for junk in [b"\xff\r\n", b"*3\r\n$7\r\nmessage\r\n*0\r\n*0\r\n" * 5 + b"\xff\r\n", b"x" * 20_000]:
            commands = self.commands(self.play(SUBSCRIBED + junk))
            await until(lambda: any("was lost" in line for line in self.log.lines(LogLevel.warn)), "the loss")
            await commands.stopService()
            self.log.events.clear()
        self.assertEqual(self.flushLoggedErrors(), [])


class SilenceTests(RedisCase):
    """A half-open connection is noticed. Real sockets, and a clock that the test moves."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    async def test_answers(self) -> None:
        """Redis answers each PING before it passes on a later message."""
        server = await self.server()
        commands = self.commands(server.port, clock=self.clock)
        await until(lambda: commands.connected, "the connection")
        for number in range(10):
            self.clock.advance(20)
            server.publish("rtmp_commands", "kill-session>tv")
            await until(lambda count=number + 1: len(self.target.kills) == count, "the answer")  # type: ignore[misc]
        self.assertTrue(commands.connected)

    async def test_silence(self) -> None:
        commands = self.commands(self.play(SUBSCRIBED), clock=self.clock)
        await until(lambda: commands.connected, "the connection")
        self.clock.pump([20.0, 20.0])
        self.assertEqual(self.log.lines(LogLevel.warn), [])
        self.clock.advance(20)
        await until(lambda: not commands.connected, "the loss")
        self.assertIn("no answer to PING", self.log.lines(LogLevel.warn)[0])
