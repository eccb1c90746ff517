"""The server as its operator sees it: --check, the lines at the start, LISTEN, signals, and what a stop waits for."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.settings import Settings
from rtmp_twisted.settings_types import Networks
from rtmp_twisted.summary import features, lines
from tests.support.fakes import reactor, read_token, until, within
from tests.support.memory import World
from tests.support.programs import SEARCH_PATH, Program, Server, free_port
from tests.support.rtmp_client import RTMPClient, aac, client

TWISTD = "from twisted.scripts.twistd import run; run()"
SECRET = "s3cr3t-of-at-least-thirty-two-bytes"


class SummaryTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        found = {feature.name: feature.on for feature in features(Settings())}
        del found["compiled"]  # not a setting
        on = {"RTMP", "who may publish", "who may play", "limit of connections", "cache for joining players"}
        self.assertEqual({name for name, is_on in found.items() if is_on}, on)

    def test_each_feature_has_its_line(self) -> None:
        settings = Settings(
            ssl_cert="a",
            ssl_key="b",
            redis_use=True,
            http_port=8080,
            web_port=80,
            web_bind_address="::1",
            max_publish_kbps=5000,
            proxy_protocol_from=Networks.parse("10.0.0.0/8"),
            concurrent_limit_whitelist=Networks.parse("*"),
            gop_cache_size_mb=0,
            bind_address="::1",
            callback_url=f"https://user:{SECRET}@example.net/?{SECRET}",
            jwt_secret=SECRET,
            redis_password=SECRET,
            http_token=SECRET,
        )
        text = lines(settings)
        self.assertIn("RTMP: port 1935 of [::1]", text)
        self.assertIn("RTMPS: port 443 of [::1]", text)
        self.assertIn("HTTP for operators: port 8080 of 127.0.0.1, with a token", text)
        self.assertIn("JWT_SECRET is ***", text)
        self.assertIn("watching in a browser: http://[::1]:80/CHANNEL/KEY", text)
        [off] = [line for line in text if line.startswith("off: ")]
        self.assertIn("limit of connections (CONCURRENT_LIMIT_WHITELIST is *)", off)
        self.assertIn("cache for joining players (GOP_CACHE_SIZE_MB is 0)", off)
        self.assertNotIn(SECRET, "\n".join(text))
        web = Settings(ssl_cert="a", ssl_key="b", web_port=80, web_ssl_port=443, web_play="token")
        addresses = "http://HOST:80/CHANNEL/TOKEN, https://HOST:443/CHANNEL/TOKEN"
        self.assertIn(f"watching in a browser: {addresses}", lines(web))
        listening = lines(Settings(listen=("tcp:1", "unix:/x"), control_use=True, control_base_url="ws://a/"))
        self.assertEqual(listening[0], "RTMP: tcp:1 unix:/x")
        self.assertIn("who may publish: whoever the coordinator lets, ws://a/", listening)


class CheckTests(TestCase):
    timeout = 60

    def check(self, *options: str, **environment: str) -> Program:
        command = (sys.executable, "-c", TWISTD, "-n", "--pidfile=", "rtmp", "--check", *options)
        return Program(self, *command, **environment)

    async def test_good(self) -> None:
        with socket.socket() as taken:  # a port that a running server uses is no error
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            checked = self.check(f"--rtmp-port={port}", CALLBACK_URL="http://127.0.0.1/", JWT_SECRET="")
            self.assertEqual(await within(checked.ended), 0, str(checked))
        self.assertEqual(checked.lines[0], f"RTMP: port {port}")
        self.assertIn(f"RTMP_PORT is {port}", checked.lines)
        self.assertIn("warning: JWT_SECRET is empty: anybody can forge callbacks", checked.lines)

    async def test_bad(self) -> None:
        for options, wanted in (
            (["--rtmp-port=http", "--rtmp-chunk-size=5"], ["RTMP_PORT ", "RTMP_CHUNK_SIZE "]),
            (["--control-use=YES", "--control-base-url=ws://127.0.0.1:0/"], ["CONTROL_BASE_URL: "]),
            (["--http-port=1", "--http-bind-address=0.0.0.0"], ["HTTP_BIND_ADDRESS: "]),
            (["--listen=tcp:x tcpp:1 systemd:domain=INET:index=0"], ["LISTEN: 'tcp:x' ", "LISTEN: ", "LISTEN: "]),
        ):
            checked = self.check(*options)
            self.assertEqual(await within(checked.ended), 1, str(checked))
            self.assertEqual(len(checked.lines), len(wanted), str(checked))
            for line, beginning in zip(checked.lines, wanted, strict=True):
                self.assertTrue(line.startswith(beginning), line)


class StartTests(TestCase):
    timeout = 60

    async def test_what_is_said(self) -> None:
        server = Server(self, callback_url="http://127.0.0.1:9/", jwt_secret=SECRET, http_token=SECRET)
        await server.up()
        await server.until("JWT_SECRET is")
        text = "\n".join(server.lines)
        self.assertIn(f" info RTMP: port {server.port}\n", text)
        self.assertIn(" info who may publish: whoever the callback lets, http://127.0.0.1:9/\n", text)
        self.assertIn(" info off: RTMPS (", text)
        self.assertIn(" info JWT_SECRET is ***", text)
        self.assertNotIn(SECRET, text)


class ListenTests(TestCase):
    timeout = 60

    async def check(self, connection: RTMPClient) -> None:
        await connection.open()
        await connection.publish()
        connection.transport.loseConnection()
        await within(connection.lost)

    async def test_several(self) -> None:
        """The server does not listen on RTMP_PORT then; callbacks still get that port."""
        path = Path(self.mktemp()).absolute()
        port = free_port()
        server = Server(self, listen=f"tcp:{port}:interface=127.0.0.1 unix:{path}")
        await server.until(f"RTMP on 127.0.0.1:{port}")
        await server.until(f"RTMP on unix:{path}")
        await self.check(await client(port))
        await self.check(await connectProtocol(UNIXClientEndpoint(reactor, str(path)), RTMPClient()))
        with socket.socket() as connection:
            self.assertRaises(ConnectionRefusedError, connection.connect, ("127.0.0.1", server.port))
        server.signal(signal.SIGTERM)
        self.assertEqual(await within(server.ended), 0, str(server))

    async def test_socket_activation(self) -> None:
        """Another process has opened the socket, as systemd does."""
        script = f"""
import os, socket, sys
listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
os.dup2(os.dup(listening.fileno()), 3)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "rtmp"}}
os.execv(sys.executable, [sys.executable, "-c", {TWISTD!r}, "-n", "--pidfile=", "rtmp",
                          "--listen=systemd:domain=INET6:name=rtmp"])
"""
        server = Program(self, sys.executable, "-c", script)
        match = await server.until(r"RTMP on \[::\]:([0-9]+)")
        await self.check(await client(int(match[1])))
        server.signal(signal.SIGTERM)
        self.assertEqual(await within(server.ended), 0, str(server))

    async def test_fails_later(self) -> None:
        """An endpoint of somebody's plugin finds out while the server runs: one line, and exit status 1."""
        folder = Path(self.mktemp()).absolute()
        (folder / "twisted/plugins").mkdir(parents=True)
        (folder / "twisted/plugins/late.py").write_text(LATE_PLUGIN)
        port = free_port()
        server = Server(
            self,
            *("env", f"PYTHONPATH={folder}{os.pathsep}{SEARCH_PATH}"),
            listen=f"tcp:{port}:interface=127.0.0.1 late:nothing",
        )
        self.assertEqual(await within(server.ended), 1, str(server))
        [line] = [line for line in server.lines if "late: there is nothing" in line]
        self.assertRegex(
            line, r" error LISTEN: 'late:nothing' cannot be used: late: there is nothing; the server is stopping$"
        )
        self.assertNotIn("Traceback", "\n".join(server.lines))


LATE_PLUGIN = """
from twisted.internet import reactor
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

def fail(name):
    raise OSError(f"late: there is {name}")

@implementer(IStreamServerEndpoint)
class Endpoint:
    def __init__(self, name):
        self.name = name

    def listen(self, factory):
        return deferLater(reactor, 0.2, fail, self.name)

@implementer(IPlugin, IStreamServerEndpointStringParser)
class Late:
    prefix = "late"

    def parseStreamServer(self, reactor, name):
        return Endpoint(name)

late = Late()
"""


class TraceTests(TestCase):
    timeout = 60
    KEY = "s3cr3t-key"

    async def run_once(self, **settings: str) -> list[str]:
        """A publish with one frame and its play; returns what is traced."""
        server = Server(self, **settings)
        await server.up()
        publisher, player = await client(server.port), await client(server.port)
        await publisher.open()
        await publisher.publish(self.KEY)
        publisher.send(aac(1234, b"the payload"))
        await player.open()
        await player.play(self.KEY)
        publisher.send(aac(1300, b"the payload"))
        await until(player.media, "a frame")
        server.signal(signal.SIGTERM)
        await within(server.ended)
        text = "\n".join(server.lines)
        for secret in self.KEY, "payload":
            self.assertNotIn(secret, text)
        return [line for line in server.lines if " trace " in line]

    async def test_on(self) -> None:
        traced = "\n".join(await self.run_once(log_trace="YES"))
        self.assertRegex(traced, r"#1 127.0.0.1 received: message type 20, stream 1, time 0, \d+ bytes")
        self.assertRegex(traced, r"#1 127.0.0.1 received: message type 8, stream 1, time 1234, 13 bytes")
        self.assertRegex(traced, r"#1 127.0.0.1 sent: message type 20, stream 1, ")
        self.assertRegex(traced, r"#2 127.0.0.1 sent: message type 4, stream 0, ")

    async def test_off(self) -> None:
        self.assertEqual(await self.run_once(), [])

    def test_off_costs_nothing(self) -> None:
        """A connection then reads messages from the decoder itself, with nothing in between."""
        for trace in False, True:
            factory = World().factory
            connection: Any = RTMPFactory(factory.options, trace=trace).buildProtocol(None).connection
            self.assertEqual(connection._read.__self__ is connection, trace)


class HangUpTests(TestCase):
    timeout = 60

    async def test_in_the_background(self) -> None:
        server = Server(self)
        await server.up()
        for _ in range(2):
            server.signal(signal.SIGHUP)
        await server.until("no certificates to read again")
        await (await client(server.port)).open()

    def test_the_terminal_is_closed(self) -> None:
        port = free_port()
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "rtmp", f"--rtmp-port={port}"]
        environment = {**os.environ, "PYTHONPATH": SEARCH_PATH}
        with subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, text=True, cwd=self.folder(), env=environment
        ) as server:
            self.addCleanup(server.kill)
            os.close(theirs)
            assert server.stdout is not None
            self.wait_for(server, "RTMP on ")
            server.send_signal(signal.SIGHUP)  # with a terminal it means: read the certificates again
            self.wait_for(server, "no certificates")
            os.close(ours)
            server.send_signal(signal.SIGHUP)
            self.wait_for(server, "SIGHUP: the server is stopping")
            self.assertEqual(server.wait(60), 0)

    def folder(self) -> str:
        folder: str = self.mktemp()
        os.mkdir(folder)
        return folder

    def wait_for(self, server: subprocess.Popen[str], text: str) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            if text in line:
                return
        self.fail(f"{text!r} did not come")


class DrainTests(TestCase):
    timeout = 60

    async def test_stop_events_are_waited_for(self) -> None:
        """A publish is on air at the stop, and the application answers its stop event late."""
        events: list[str] = []
        pending: list[Request] = []

        class Application(Resource):
            isLeaf = True

            def render_POST(self, request: Request) -> bytes | int:
                token = str(request.getHeader("rtmp-event"))
                events.append(read_token(token, SECRET)["event"])
                if events[-1] == "start":
                    return b""
                pending.append(request)
                return NOT_DONE_YET

        port = reactor.listenTCP(0, Site(Application()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}/"
        server = Server(self, callback_url=url, jwt_secret=SECRET, shutdown_grace_seconds="30")
        await server.up()
        publisher = await client(server.port)
        await publisher.open()
        await publisher.publish()
        publisher.send(aac(0))
        server.signal(signal.SIGTERM)
        await until(lambda: pending, "the stop event")
        await within(publisher.lost)
        await pause(0.5)
        self.assertFalse(server.ended.called)
        pending.pop().finish()
        self.assertEqual(await within(server.ended), 0, str(server))
        self.assertEqual(events, ["start", "stop"])


def pause(seconds: float) -> Deferred[None]:
    """Waits for a fixed time, in which nothing should happen."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done
