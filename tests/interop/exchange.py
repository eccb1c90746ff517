"""One exchange: a program publishes, another one plays from before the beginning, and once more joining late.

Both go through a relay each, so that what the one sent is compared with what the other was sent, message by message;
and what the player made of it is compared with the clip, picture by picture.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import define
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from rtmp_twisted.media import tags
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.interop.programs import Player, Publisher
from tests.support import clips
from tests.support.fakes import reactor, within
from tests.support.programs import Program, Server
from tests.support.relay import Leg, Relay, Tape, is_header, is_keyframe

ENOUGH = 60
"""Audio and video messages that have to pass before a test goes on: about a second."""

REORDERED = 4
"""Pictures that may be decoded before one that is shown earlier."""


@define
class Viewer:
    """A player that runs. ``picture_at`` is when it said that it had a picture, in the reactor's seconds."""

    player: Player
    program: Program
    relay: Relay
    recording: Path
    picture_at: float | None = None

    async def until_received(self, frames: int) -> Leg:
        """The connection that it plays by, when it has been sent so many frames."""
        await self.relay.until_received(frames)
        return self.relay.legs[-1]


class ExchangeCase(TestCase):
    timeout = 180
    scheme = "rtmp"

    authority = ""
    """The PEM file of who vouches for an RTMPS server."""

    async def server(self, **settings: str) -> Server:
        """A server for this test."""
        server = Server(self, **settings)
        await server.up()
        return server

    def endpoints(self, server: Server) -> tuple[IStreamClientEndpoint, IStreamServerEndpoint]:
        """A relay's two sides: to the server, and to a program."""
        return (
            TCP4ClientEndpoint(reactor, "127.0.0.1", server.port),
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
        )

    async def relay(self, server: Server) -> tuple[Relay, str]:
        """A relay to the server, and the address at which a program finds it."""
        to_server, to_program = self.endpoints(server)
        relay = Relay(to_server)
        port = await relay.listen(self, to_program)
        return relay, f"{self.scheme}://127.0.0.1:{port}/channel/key"

    async def publisher(self, server: Server, publisher: Publisher, clip: Path) -> tuple[Program, Relay]:
        """A publisher that has been started."""
        relay, url = await self.relay(server)
        return Program(self, *publisher.command(str(clip), url, self.authority)), relay

    async def viewer(self, server: Server, player: Player) -> Viewer:
        """A player that has been started."""
        relay, url = await self.relay(server)
        # A directory that everybody may come to and write to: one of the programs will not be root.
        directory = Path(tempfile.mkdtemp(prefix="recording-"))
        directory.chmod(0o777)
        self.addCleanup(shutil.rmtree, directory)
        recording = directory / f"recording.{player.recording}"
        program = Program(self, *player.command(url, str(recording), self.authority))
        viewer = Viewer(player, program, relay, recording)
        if player.picture:
            saw = viewer.program.until(player.picture)

            def note(_: object) -> None:
                viewer.picture_at = reactor.seconds()

            saw.addCallbacks(note, lambda failure: None)
        return viewer

    async def exchange(self, publisher: Publisher, player: Player, *codecs: str) -> dict[str, Any]:
        """The whole of it. Returns what is worth a place in the table."""
        codecs = codecs or ("H.264", "AAC")
        clip = await clips.clip(self, *codecs, kind=publisher.clip) if publisher.clip else Path()
        server = await self.server()
        early = await self.viewer(server, player)
        await server.until("waiting for a publisher")
        program, source = await self.publisher(server, publisher, clip)
        early_leg = await early.until_received(ENOUGH)
        late = await self.viewer(server, player)
        late_leg = await late.until_received(ENOUGH + source.legs[0].to_server.frames)
        program.signal(publisher.stop)
        await within(program.ended)
        for viewer, leg in (early, early_leg), (late, late_leg):
            await leg.until_told("NetStream.Play.UnpublishNotify")
            if player.leaves:
                await within(viewer.program.ended)
            else:
                await self.interrupt(viewer)
                _drop_half_a_tag(viewer.recording)
        sent = source.legs[0].to_server.media
        if publisher.jumps:
            sent = _with_times_of(sent, early_leg.to_program.media)
        found = {
            "messages": self.assert_all_arrived(sent, early_leg.to_program.media),
            "late messages": self.assert_all_arrived(sent, late_leg.to_program.media),
            "keyframe after": late_leg.to_program.first_keyframe()[0] - late_leg.began,
        }
        self.assert_at_once(late_leg, source.legs[0].to_server)
        if late.picture_at is not None:
            found["picture after"] = late.picture_at - late_leg.began
        for track in range(len([codec for codec in codecs if codec in clips.VIDEO])):
            known = await clips.pictures(self, clip, track) if publisher.clip else []
            for viewer in early, late:
                await self.assert_pictures(viewer, known, track)
        return found

    async def interrupt(self, viewer: Viewer) -> None:
        """Ends a player that waits for the next publish, also when it has just connected anew. rtmpsrc sometimes does
        not hear the first interrupt."""
        viewer.relay.hang_up()
        interrupts = LoopingCall(viewer.program.signal, signal.SIGINT)
        interrupts.start(10)
        try:
            await within(viewer.program.ended)
        finally:
            interrupts.stop()

    def assert_all_arrived(self, sent: list[Message], received: list[Message]) -> int:
        """From its first frame on, the player was sent all that the publisher sent, bit by bit and with its times, up
        to the end; before it, the headers that were in force; and the first video frame is a keyframe. Returns how
        many messages that is."""
        first = next(number for number, message in enumerate(received) if not is_header(message))
        begin = sent.index(received[first])
        self.assertEqual(received[first:], sent[begin:])
        self.assertEqual(_in_force(received[:first]), _in_force(sent[:begin]))
        video = next(message for message in received if message.type_id == VIDEO and not is_header(message))
        self.assertTrue(is_keyframe(video))
        return len(received)

    def assert_at_once(self, leg: Leg, source: Tape) -> None:
        """From the player's ``play`` to its first keyframe less than a second of the stream has gone by: the stream's
        own time, which is late where the machine is."""
        played = next(time for time, name in leg.to_server.commands() if name == "play")
        arrived, _ = leg.to_program.first_keyframe()
        meanwhile = [
            message.timestamp
            for time, message in zip(source.times, source.messages, strict=True)
            if message.type_id in (AUDIO, VIDEO) and played < time < arrived
        ]
        self.assertLess(max(meanwhile, default=0) - min(meanwhile, default=0), 1000)

    async def assert_pictures(self, viewer: Viewer, known: list[str], track: int) -> None:
        """The player's recording can be decoded without a complaint, and its pictures are the clip's, from one on and
        without a gap. (But at its end: the pictures between the last two may have been due later.)"""
        found = await clips.pictures(self, viewer.recording, track)
        still = viewer.player.recording == "png"
        self.assertGreater(len(found), 0 if still else REORDERED, str(viewer.program))
        if still or not known:
            return
        places = [known.index(picture) for picture in found]
        self.assertEqual(places, sorted(places))
        self.assertEqual(places[:-REORDERED], list(range(places[0], places[0] + len(places) - REORDERED)))


def _drop_half_a_tag(recording: Path) -> None:
    """What rtmpsrc was writing when it was interrupted: over TLS it keeps the rest of a record until more comes."""
    data = recording.read_bytes()
    if not data.startswith(b"FLV"):
        return
    end = following = 13
    while following <= len(data):
        end = following
        following = end + 15 + int.from_bytes(data[end + 1 : end + 4], "big")
    recording.write_bytes(data[:end])


def _with_times_of(sent: list[Message], received: list[Message]) -> list[Message]:
    """What was sent, with the times that it was received with, which never go back nor leap."""
    times = [message.timestamp for message in received if not is_header(message)]
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert all(-1000 < step < 1000 for step in steps), steps
    return [message._replace(timestamp=other.timestamp) for message, other in zip(sent, received, strict=True)]


def _in_force(headers: list[Message]) -> dict[tags.Slot, bytes]:
    """Each track's headers after these messages."""
    return {
        slot: message.body
        for message in headers
        if is_header(message)
        for slot in tags.header_slots(message.type_id, message.body)
    }
