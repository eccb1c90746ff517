"""The operators' port of a server as it is started."""

from __future__ import annotations

import socket
import sys

import treq
from twisted.trial.unittest import TestCase

from tests.support.fakes import within
from tests.support.programs import ROOT, Program, Server, free_port
from tests.support.rtmp_client import client
from tests.web.case import KEY


class ServerTests(TestCase):
    timeout = 120

    async def test_on_and_off(self) -> None:
        port = free_port()
        server = Server(self, http_port=str(port), log_debug="YES")
        await server.until(f"info HTTP on 127.0.0.1:{port}")
        await server.up()
        publisher = await client(server.port)
        await publisher.open("tv")
        await publisher.publish(KEY)
        url = f"http://127.0.0.1:{port}"
        view = await within(treq.json_content(await within(treq.get(f"{url}/api/v1/channels/tv", persistent=False))))
        self.assertEqual(view["state"], "on air")
        text = await within(treq.text_content(await within(treq.get(f"{url}/metrics", persistent=False))))
        self.assertIn('rtmp_channel_players{channel="tv"} 0.0', text)
        self.assertIn('rtmp_authority_seconds_count{event="start",outcome="accepted"} 1.0', text)
        killed = await within(treq.post(f"{url}/api/v1/channels/tv/kill", persistent=False))
        self.assertEqual(killed.code, 200)
        await within(publisher.lost)
        idle = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(idle.close)
        server.signal(15)
        self.assertEqual(await within(server.ended), 0)
        self.assertNotIn(KEY, "\n".join(server.lines))

    async def test_imported_when_on(self) -> None:
        script = """
import sys
from twisted.internet import reactor
from rtmp_twisted.settings import Settings
from rtmp_twisted.tap import assemble
assemble(Settings(), reactor)
print("without:", *({"prometheus_client", "twisted.web.server"} & set(sys.modules)))
assemble(Settings(http_port=1), reactor)
print("with:", *sorted({"prometheus_client", "twisted.web.server"} & set(sys.modules)))
"""
        program = Program(self, sys.executable, "-c", script, PYTHONPATH=str(ROOT))
        self.assertEqual(await within(program.ended), 0, str(program))
        self.assertEqual(program.lines, ["without:", "with: prometheus_client twisted.web.server"])
