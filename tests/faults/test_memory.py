"""The system gives the server no more memory. The real server, with a limit of its address space."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from twisted.trial.unittest import TestCase

from rtmp_twisted.wire.chunks import MAX_MESSAGE_LENGTH
from tests.support.fakes import until, within
from tests.support.programs import Server
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc, client

ROOM = 120 * 1024 * 1024
"""Bytes that the server may take beside what it has when it is idle: less than one channel may keep."""


class OutOfMemoryTests(TestCase):
    timeout = 180

    async def test_one_connection_takes_it_all(self) -> None:
        server = Server(self, workers="1")  # whose memory is limited
        await server.up()
        publisher, viewer = await self.on_air(server, "channel")
        size = address_space(server.pid)
        resource.prlimit(server.pid, resource.RLIMIT_AS, (size + ROOM, size + ROOM))
        sent = 0
        for attempt, longest in enumerate((MAX_MESSAGE_LENGTH, MAX_MESSAGE_LENGTH, 1_000_000), 1):
            glutton = await client(server.port)
            await glutton.open("glutton")
            glutton.set_chunk_size(65536)
            await glutton.publish()
            for number in range(2 * ROOM // longest):
                publisher.send(avc(sent * 40, sent % 10 == 0, b"%d" % sent))
                sent += 1
                if not glutton.closed:
                    glutton.send(avc(number * 40, number == 0, bytes(longest - 100)))
                    await until(lambda: glutton.closed or self.idle(glutton), "what the glutton sends")  # noqa: B023
                await until(lambda: len(viewer.media()) == sent + 1, "what others get")  # noqa: B023
                if glutton.closed:
                    break
            self.assertEqual(self.frames(viewer), list(range(sent)))
            await within(glutton.lost)
            await until(lambda: self.ended(server, "disconnected") == attempt, str(server))  # noqa: B023
        self.assertFalse(publisher.closed or viewer.closed)
        await self.on_air(server, "later")
        publisher.send(avc(sent * 40, True, b"%d" % sent))
        await until(lambda: self.frames(viewer) == list(range(sent + 1)), "what others get afterwards")
        self.assertEqual([line for line in server.lines if re.search("Traceback|critical", line)], [])

    async def test_in_small_pieces(self) -> None:
        """What it takes leaves nothing for anybody, so others may end with it; the server lives, and serves again."""
        server = Server(self, workers="1")  # whose memory is limited
        await server.up()
        size = address_space(server.pid)
        resource.prlimit(server.pid, resource.RLIMIT_AS, (size + ROOM, size + ROOM))
        for attempt in range(1, 3):
            glutton = await client(server.port)
            await glutton.open("glutton")
            glutton.set_chunk_size(65536)
            await glutton.publish()
            for number in range(2 * ROOM // 1_000_000):
                if glutton.closed:
                    break
                glutton.send(*[avc(number * 40, number == 0, bytes(20_000)) for _ in range(50)])
                await until(lambda: glutton.closed or self.idle(glutton), "what the glutton sends")  # noqa: B023
            await within(glutton.lost)
            await until(lambda: self.ended(server, "stopped publishing") == attempt, str(server))  # noqa: B023
            await until(lambda: self.ended(server, "disconnected") == attempt, str(server))  # noqa: B023
            await self.on_air(server, f"later-{attempt}")

    def ended(self, server: Server, what: str) -> int:
        """How often a line says that ``what`` was because the server had no memory."""
        return len([line for line in server.lines if f" {what} " in line and line.endswith(": out of memory")])

    async def on_air(self, server: Server, channel: str) -> tuple[RTMPClient, RTMPClient]:
        """A publisher and a viewer of a channel."""
        publisher, viewer = await client(server.port), await client(server.port)
        await publisher.open(channel)
        await publisher.publish()
        await viewer.open(channel)
        await viewer.play()
        publisher.send(AVC_HEADER)
        return publisher, viewer

    def frames(self, viewer: RTMPClient) -> list[int]:
        return [int(message.body[5:]) for message in viewer.media() if message.body[1] == 1]

    def idle(self, one: RTMPClient) -> bool:
        """Whether nothing that it sends waits in this process."""
        return not one.transport.dataBuffer and not one.transport._tempDataLen


def address_space(pid: int) -> int:
    """Bytes of a process's address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
