"""The command ``rtmp-twisted``, and what it says of a wrong command line or a port that it cannot have."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.__main__ import main
from rtmp_twisted._version import __version__
from rtmp_twisted.tap import Options
from tests.support.certificates import Authority
from tests.support.fakes import within
from tests.support.programs import Program, Server, free_port

VERSION = f"rtmp-twisted {__version__}\n"


class CommandLineTests(SynchronousTestCase):
    def say(self, *words: str) -> str:
        """What the command prints, or the line that it ends with."""
        self.patch(sys, "argv", ["rtmp-twisted", *words])
        printed = io.StringIO()
        with redirect_stdout(printed):
            try:
                main()
            except SystemExit as error:
                return str(error.code or printed.getvalue())
        return printed.getvalue()

    def test_version(self) -> None:
        for words in ("version",), ("--version",), ("serve", "--version"), ("check", "--version"):
            self.assertEqual(self.say(*words), VERSION, words)

    def test_help(self) -> None:
        for words in (), ("--help",), ("help",):
            self.assertIn("serve [options]", self.say(*words))
        text = self.say("serve", "--help")
        self.assertIn("rtmp-twisted serve [options]", text)
        self.assertIn("--rtmp-port=", text)

    def test_wrong_command_lines(self) -> None:
        """One line each."""
        for words, line in (
            (["server"], "server: there is no such command; the commands are serve, check, drain and version"),
            (["--rtmp-port=1"], "--rtmp-port=1: the command comes first, as in: rtmp-twisted serve --rtmp-port=1"),
            (["serve", "--rtmp-prot=1"], "--rtmp-prot: there is no such option; did you mean --rtmp-port?"),
            (["check", "--RTMP_PORT", "1"], "--RTMP_PORT: there is no such option; did you mean --rtmp-port?"),
            (["serve", "--id"], "--id: there is no such option; --help lists all options"),
            (["serve", "--limit", "9"], "--limit: there is no such option; did you mean --concurrent-limit-whitelist?"),
            (["serve", "--chekc"], "--chekc: there is no such option; --help lists all options"),
            (["serve", "-p", "1"], "-p: there is no such option; --help lists all options"),
            (["serve", "--rtmp-port"], "--rtmp-port: it takes a value"),
            (["serve", "--check=YES"], "--check: it takes no value"),
            (["serve", "RTMP_PORT=1"], "RTMP_PORT=1: an option begins with --; --help lists all"),
        ):
            self.assertEqual(self.say(*words), line)

    def test_several_candidates(self) -> None:
        options = Options()
        error = self.assertRaises(SystemExit, options.parseOptions, ["--ssl"])
        self.assertRegex(str(error), r"^--ssl: there is no such option; did you mean --ssl-port or .*--ssl-key.*\?$")


class RunningTests(TestCase):
    timeout = 60

    def command(self, *words: str, **environment: str) -> Program:
        return Program(self, sys.executable, "-m", "rtmp_twisted", *words, **environment)

    async def test_two_in_one_directory(self) -> None:
        """Each runs in the foreground and ends in order; nothing is written."""
        before = set(os.listdir())
        servers = [self.command("serve", f"--rtmp-port={free_port()}") for _ in range(2)]
        for server in servers:
            await server.until(" info RTMP on ")
        self.assertEqual(set(os.listdir()) - before, set())
        for server in servers:
            server.signal(signal.SIGTERM)
            self.assertEqual(await within(server.ended), 0, str(server))

    async def test_check(self) -> None:
        good = self.command("check", "--rtmp-port=1936")
        self.assertEqual(await within(good.ended), 0, str(good))
        self.assertEqual(good.lines[0], "RTMP: port 1936")
        bad = self.command("check", "--rtmp-port=http")
        self.assertEqual(await within(bad.ended), 1, str(bad))
        self.assertEqual([line[:10] for line in bad.lines], ["RTMP_PORT "])

    async def test_a_port_in_use_names_its_setting(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        certificate = Authority(folder).issue("localhost")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            rtmps = {"ssl_cert": str(certificate.certificate), "ssl_key": str(certificate.key), "ssl_port": str(port)}
            listen = f"tcp:{port}:interface=127.0.0.1"
            for settings, beginning in (
                ({"rtmp_port": str(port)}, f"RTMP_PORT: port {port} of 127.0.0.1 is already in use"),
                (rtmps, f"SSL_PORT: port {port} of 127.0.0.1 is already in use"),
                ({"http_port": str(port)}, f"HTTP_PORT: port {port} of 127.0.0.1 is already in use"),
                ({"web_port": str(port), "web_bind_address": "127.0.0.1"}, f"WEB_PORT: port {port} of 127.0.0.1 is al"),
                ({"listen": listen}, f"LISTEN: '{listen}' cannot be used: "),
                ({"bind_address": "192.0.2.1"}, "BIND_ADDRESS: cannot listen on port "),
            ):
                server = Server(self, **{"bind_address": "127.0.0.1", **settings})
                self.assertEqual(await within(server.ended), 1, str(server))
                lines = [line for line in server.lines if beginning in line]
                self.assertEqual(len(lines), 1, str(server))
                self.assertNotIn("Traceback", str(server))
