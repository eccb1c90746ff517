"""docs/systemd: systemd accepts the units, and the server takes its socket from systemd."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.fakes import within
from tests.support.programs import ROOT, SEARCH_PATH, Program, free_port
from tests.support.rtmp_client import RTMPClient, client

UNITS = ROOT / "docs/systemd"
TWISTD = "from twisted.scripts.twistd import run; run()"


class UnitTests(SynchronousTestCase):
    def test_verify(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        units = []
        for unit in UNITS.iterdir():
            units.append(directory / unit.name)
            # systemd-analyze only accepts a program that exists.
            units[-1].write_text(unit.read_text().replace("/opt/rtmp-twisted/bin/twistd", sys.executable))
        self.assertEqual(len(units), 2)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False
        )
        wrong = [line for line in done.stderr.splitlines() if "rtmp-twisted" in line]
        self.assertEqual(wrong, [])

    def test_the_socket_s_name(self) -> None:
        """The socket unit's comment and docs/install.md both use the name that the unit gives the socket."""
        text = (UNITS / "rtmp-twisted.socket").read_text()
        [name] = re.findall(r"^FileDescriptorName=(\w+)$", text, re.MULTILINE)
        for place in text, (ROOT / "docs/install.md").read_text():
            self.assertIn(f"LISTEN=systemd:domain=INET6:name={name}", place)


class ActivationTests(TestCase):
    timeout = 120

    async def test_activation(self) -> None:
        """The first client starts the server and is served; the next one is served too, over IPv6."""
        await self.activate()

    async def test_activation_of_workers(self) -> None:
        server = await self.activate("--setenv=WORKERS=2")
        await server.until("w[12] #1 .* connected")

    async def activate(self, *options: str) -> Program:
        port = free_port()
        server = Program(
            self,
            *("systemd-socket-activate", f"--listen=[::]:{port}", "--fdname=rtmp"),
            *("--setenv=LISTEN=systemd:domain=INET6:name=rtmp", f"--setenv=PYTHONPATH={SEARCH_PATH}", "--setenv=PATH"),
            *options,
            *(sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "rtmp"),
        )
        await server.until("Listening on")
        first = await client(port)
        self.addCleanup(self.leave, first)
        await first.open()
        await server.until(" info RTMP on ")
        with socket.create_connection(("::1", port)) as second:
            second.settimeout(30)
            second.sendall(b"\x03" + bytes(1536))
            self.assertEqual(second.recv(1), b"\x03")
        return server

    async def leave(self, one: RTMPClient) -> None:
        one.transport.abortConnection()
        await within(one.lost)

    async def test_no_such_socket(self) -> None:
        settings = {"LISTEN": "systemd:domain=INET6:name=rtmp"}
        server = Program(self, sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "rtmp", **settings)
        self.assertEqual(await within(server.ended), 1)
        [line] = server.lines
        self.assertIn("no such socket was passed", line)
