"""Pushes to, and pulls from, other people's servers: nginx-rtmp, ffmpeg as a server, and a process of this one.

Relays between them record what passes. What arrives is compared with what was sent, message by message.
"""

from __future__ import annotations

import signal
from pathlib import Path

import treq
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.task import deferLater

from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.interop import programs
from tests.interop.exchange import ENOUGH, ExchangeCase
from tests.interop.test_ffmpeg import AAC, H264
from tests.interop.test_ffmpeg import AUDIO as TONE
from tests.interop.test_ffmpeg import VIDEO as PICTURE
from tests.support import clips
from tests.support.clips import CURRENT_FFMPEG, QUIET
from tests.support.fakes import reactor, until, within
from tests.support.nginx import Nginx
from tests.support.programs import Program, free_port
from tests.support.relay import Relay, is_header

PUBLISHED, UNPUBLISHED = "NetStream.Play.PublishNotify", "NetStream.Play.UnpublishNotify"


def frames(messages: list[Message]) -> list[bytes]:
    return [message.body for message in messages if not is_header(message)]


class ServerCase(ExchangeCase):
    async def tap(self, port: int) -> tuple[Relay, int]:
        """A relay to what listens on a port, and its own."""
        relay = Relay(TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        return relay, await relay.listen(self, TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))

    def assert_times(self, received: list[Message]) -> None:
        """Neither audio nor video goes back."""
        for kind in AUDIO, VIDEO:
            times = [message.timestamp for message in received if message.type_id == kind]
            self.assertEqual(times, sorted(times))


class PushTests(ServerCase):
    async def test_an_encoder_that_drops_out(self) -> None:
        """To each of the three it is one stream without a gap, although the encoder is killed, is away for 2 s, and is
        another process afterwards whose time begins at 0."""
        clip = await clips.clip(self, "H.264", "AAC", kind="flv")
        nginx = Nginx(self)
        await nginx.start()
        twin = await self.server()
        listener_port, recording = free_port(), Path(self.mktemp() + ".flv")
        listen = ("-listen", "1", "-i", f"rtmp://127.0.0.1:{listener_port}/app/key", "-c", "copy", str(recording))
        listener = Program(self, CURRENT_FFMPEG, *QUIET, *listen)
        taps = [await self.tap(port) for port in (nginx.port, listener_port, twin.port)]
        addresses = [
            f"*=rtmp://127.0.0.1:{port}/{app}/key" for (_, port), app in zip(taps, ("live", "app", "copy"), strict=True)
        ]
        server = await self.server(push=" ".join(addresses))
        player = Program(self, CURRENT_FFMPEG, *QUIET, "-i", nginx.url("key"), "-c", "copy", "-f", "null", "-")
        encoder, first = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        for relay, _ in taps:
            await until(lambda relay=relay: relay.legs and relay.legs[-1].to_server.frames >= ENOUGH, "frames")  # type: ignore[misc]
        encoder.signal(signal.SIGKILL)
        await deferLater(reactor, 2, lambda: None)
        encoder, second = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        await second.until_sent(ENOUGH)
        encoder.signal(signal.SIGINT)
        await within(encoder.ended)
        self.assertEqual(await within(listener.ended), 0, str(listener))
        sent = frames([message for relay in (first, second) for message in relay.legs[0].to_server.media])
        for relay, _ in taps:
            leg = relay.legs[-1]
            await until(lambda leg=leg: "program" in leg.closed, "the end")  # type: ignore[misc]
            commands = [name for _, name in leg.to_server.commands()]
            self.assertEqual(commands[-2:], ["FCUnpublish", "deleteStream"])
            received = leg.to_server.media
            arrived = frames(received)
            self.assertEqual(arrived, sent[sent.index(arrived[0]) :])
            self.assertGreater(len(arrived), len(sent) - 30)
            self.assertEqual(received[0].timestamp, 0)
            self.assert_times(received)
            self.assertEqual(commands.count("publish"), 1)
        self.assertEqual([len(relay.legs) for relay, _ in (taps[0], taps[2])], [1, 1])
        known = await clips.pictures(self, clip)
        places = [known.index(picture) for picture in await clips.pictures(self, recording)]
        self.assertEqual(places.count(0), 2)
        self.assertGreater(len(places), ENOUGH // 2)
        await player.kill()


class RestartTests(ServerCase):
    async def test_one_reconnect(self) -> None:
        """An encoder's channel is pushed to a server in the middle, and pulled from it by a third, for a viewer. The
        one in the middle is stopped and started anew: that is one reconnect for each, and the viewer stays."""
        middle = await self.server(shutdown_grace_seconds="5")
        addresses = [free_port(), free_port()]
        first = await self.server(push=f"*={middle.url('copy')}", http_port=str(addresses[0]))
        rule = f"*/*=rtmp://127.0.0.1:{middle.port}/copy/{{key}}"
        last = await self.server(pull=rule, publish_return_seconds="60", http_port=str(addresses[1]))
        encode = (*PICTURE, *TONE, *H264, *AAC, "-f", "flv", first.url())
        encoder = Program(self, "ffmpeg", *QUIET, "-re", *encode)
        viewer = await self.viewer(last, programs.RTMP2SRC)
        leg = await viewer.until_received(ENOUGH)
        middle.signal(signal.SIGTERM)
        self.assertEqual(await within(middle.ended), 0, str(middle))
        await self.server(rtmp_port=str(middle.port))
        passed = leg.to_program.frames
        await until(lambda: leg.to_program.frames > passed + ENOUGH, "more frames")
        for port in addresses:
            answer = await treq.get(f"http://127.0.0.1:{port}/api/v1/relays", persistent=False)
            [relay] = (await treq.json_content(answer))["relays"]
            self.assertEqual((relay["state"], relay["reconnects"]), ("live", 1), relay)
        self.assertNotIn(UNPUBLISHED, leg.to_program.codes)
        self.assert_times(leg.to_program.media)
        await encoder.kill()
        await self.interrupt(viewer)


class PullTests(ServerCase):
    async def check(self, rule: str) -> None:
        """An encoder at nginx; viewers here. nginx is killed and comes back, and the encoder with it: the viewers stay
        and go on."""
        clip = await clips.clip(self, "H.264", "AAC", kind="flv")
        nginx = Nginx(self)
        await nginx.start()
        tap, port = await self.tap(nginx.port)
        command = programs.DEBIAN_FFMPEG.command(str(clip), nginx.url("key"), "")
        encoder = Program(self, *command)
        server = await self.server(pull=rule.format(port=port), publish_return_seconds="60")
        viewer = await self.viewer(server, programs.RTMP2SRC)
        leg = await viewer.until_received(ENOUGH)
        first = tap.legs[-1].to_program
        nginx.program.signal(signal.SIGKILL)
        await within(nginx.program.ended)
        await encoder.kill()
        await nginx.start()
        encoder = Program(self, *command)
        passed = leg.to_program.frames
        await until(lambda: leg.to_program.frames > passed + ENOUGH, "more frames")
        second = tap.legs[-1].to_program
        self.assertNotIn(UNPUBLISHED, leg.to_program.codes)
        encoder.signal(signal.SIGINT)
        await leg.until_told(UNPUBLISHED)
        sent = frames(first.media) + frames(second.media)
        received = leg.to_program.media
        arrived = frames(received)
        self.assertEqual(arrived, sent[sent.index(arrived[0]) :])
        self.assertGreater(len(arrived), 2 * ENOUGH)
        self.assert_times(received)
        self.assertEqual(leg.to_program.codes.count(PUBLISHED), 2)
        await self.interrupt(viewer)

    async def test_always(self) -> None:
        await self.check("*/key=rtmp://127.0.0.1/nothing/here channel/key=rtmp://127.0.0.1:{port}/live/key?always")

    async def test_on_demand(self) -> None:
        await self.check("channel/*=rtmp://127.0.0.1:{port}/live/{{key}}")
