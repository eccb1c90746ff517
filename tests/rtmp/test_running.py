"""The server as a process, over real sockets: its start, its end, and a viewer that stops reading."""

from __future__ import annotations

import signal
import socket
import sys
from itertools import pairwise
from pathlib import Path

from twisted.trial.unittest import TestCase

from rtmp_twisted.wire import messages
from tests.support.fakes import reactor, until, within
from tests.support.programs import ROOT, Program, Server, free_port
from tests.support.rtmp_client import AVC_HEADER, METADATA, RTMPClient, aac, avc, client, codes


class StopTests(TestCase):
    timeout = 60

    async def test_signals(self) -> None:
        for number in signal.SIGTERM, signal.SIGINT:
            server = Server(self)
            await server.up()
            publisher, player = await client(server.port), await client(server.port)
            await publisher.open()
            await publisher.publish()
            await player.open()
            await player.play()
            publisher.send(AVC_HEADER, avc(0, True), aac(10))
            await player.until(lambda message: message.type_id == messages.AUDIO)
            asked = reactor.seconds()
            server.signal(number)
            status = await within(server.ended)
            self.assertEqual(status, 0, str(server))
            self.assertLess(reactor.seconds() - asked, 5)
            await within(player.lost)
            await within(publisher.lost)
            self.assertIn("NetStream.Play.UnpublishNotify", codes(player.received))
            self.assertTrue(any("stopped publishing" in line for line in server.lines), str(server))

    async def test_while_it_starts(self) -> None:
        """The reactor has its own handlers by then, and nobody has replaced them yet."""
        for number in signal.SIGTERM, signal.SIGINT:
            start = (
                "import os; from twisted.internet import reactor; from twisted.scripts.twistd import run;"
                f"reactor.callWhenRunning(os.kill, os.getpid(), {int(number)}); run()"
            )
            arguments = "-n", "--pidfile=", "rtmp", f"--rtmp-port={free_port()}"
            server = Program(self, sys.executable, "-c", start, *arguments, PYTHONPATH=str(ROOT))
            self.assertEqual(await within(server.ended), 0, str(server))
            self.assertTrue(any("the server is stopping" in line for line in server.lines), str(server))

    async def test_a_client_that_does_not_go(self) -> None:
        server = Server(self, shutdown_grace_seconds="1")
        await server.up()
        with socket.create_connection(("127.0.0.1", server.port)):
            server.signal(signal.SIGTERM)
            self.assertEqual(await within(server.ended), 0, str(server))


class StartTests(TestCase):
    timeout = 60

    def server(self, *options: str) -> Program:
        command = "from twisted.scripts.twistd import run; run()"
        return Program(self, sys.executable, "-c", command, "-n", "--pidfile=", "rtmp", *options, PYTHONPATH=str(ROOT))

    async def test_wrong_settings(self) -> None:
        wrong = self.server("--rtmp-port=http", "--rtmp-chunk-size=5")
        self.assertEqual(await within(wrong.ended), 1)
        self.assertEqual(len(wrong.lines), 2, str(wrong))
        self.assertIn("RTMP_PORT", wrong.lines[0])
        self.assertIn("RTMP_CHUNK_SIZE", wrong.lines[1])

    async def test_what_only_an_integration_can_tell_is_wrong(self) -> None:
        ca = Path(self.mktemp())
        ca.write_text("no certificate")
        for variable, options in (
            ("CONTROL_BASE_URL", ["--control-use=YES", "--control-base-url=ws://user:pw@127.0.0.1/"]),
            ("CONTROL_BASE_URL", ["--control-use=YES", "--control-base-url=ws://127.0.0.1:0/"]),
            ("REDIS_TLS_CA", ["--redis-use=YES", "--redis-tls=YES", f"--redis-tls-ca={ca}"]),
        ):
            wrong = self.server(f"--rtmp-port={free_port()}", *options)
            self.assertEqual(await within(wrong.ended), 1, str(wrong))
            self.assertEqual(len(wrong.lines), 1, str(wrong))
            self.assertTrue(wrong.lines[0].startswith(f"{variable}: "), wrong.lines)

    async def test_ipv4_and_ipv6(self) -> None:
        server = Server(self)
        await server.up()
        for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
            with socket.socket(family) as connection:
                connection.connect((host, server.port))

    async def test_one_address(self) -> None:
        server = Server(self, bind_address="127.0.0.1")
        await server.up()
        with socket.socket(socket.AF_INET6) as connection:
            self.assertRaises(OSError, connection.connect, ("::1", server.port))


class SlowViewerTests(TestCase):
    timeout = 120

    async def test_stops_reading(self) -> None:
        """A viewer stops reading, and reads again later: it has lost whole groups of pictures, and nobody else."""
        server = Server(self, log_debug="YES")
        await server.up()
        publisher, quick, slow = [await client(server.port) for _ in range(3)]
        await publisher.open()
        publisher.set_chunk_size(65536)
        await publisher.publish()
        publisher.send(METADATA, AVC_HEADER)
        for each in quick, slow:
            await each.open()
            await each.play()
        slow.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.connection.pause_reading()
        sent = 0
        while not any("too slow" in line for line in server.lines):
            for _ in range(10):
                publisher.send(avc(sent * 40, sent % 10 == 0, b"%08d" % sent + bytes(50_000)))
                sent += 1
            everything = list(range(sent))
            await until(lambda: frames(quick) == everything, "what the quick viewer gets")  # noqa: B023
            self.assertLess(sent, 2000, "the slow viewer was never too slow")
        slow.connection.read_media()
        publisher.send(avc(sent * 40, True, b"%08d" % sent))
        await until(lambda: frames(slow)[-1:] == [sent], "the last frame at the slow viewer")
        await until(lambda: frames(quick) == list(range(sent + 1)), "all frames at the quick viewer")
        received = frames(slow)
        self.assertEqual(received, sorted(set(received)))
        gaps = [after for before, after in pairwise(received) if after != before + 1]
        self.assertGreater(len(gaps), 0)
        self.assertEqual([after for after in gaps if after % 10 and after != sent], [])
        self.assertFalse(quick.closed or slow.closed or publisher.closed)
        slow.transport.loseConnection()
        await server.until("left out in [0-9]+ places")


def frames(viewer: RTMPClient) -> list[int]:
    """The numbers of the frames that a viewer got."""
    return [int(message.body[5:13]) for message in viewer.media() if message.body[1] == 1]
