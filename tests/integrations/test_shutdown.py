"""SIGTERM to a server process: the callback or the coordinator hears of each end once, also of pending publishes."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.server import NOT_DONE_YET, Request

from tests.support import coordinator as play
from tests.support import http_app
from tests.support.coordinator import Coordinator, Visit
from tests.support.fakes import until, within
from tests.support.http_app import Event, HTTPApp
from tests.support.programs import Server
from tests.support.rtmp_client import RTMPClient, client, codes

SECRET = "a secret of more than thirty-two bytes"
ON_AIR = ["one", "two", "three"]
REFUSED = "NetStream.Publish.BadName"


class ShutdownCase(TestCase):
    timeout = 120
    server: Server

    async def ask(self, channel: str) -> RTMPClient:
        """Returns a publisher that has asked."""
        publisher = await client(self.server.port)
        await publisher.open(channel)
        publisher.call("publish", None, "key", "live", stream_id=1)
        return publisher

    async def on_air(self) -> list[RTMPClient]:
        publishers = [await self.ask(channel) for channel in ON_AIR]
        for publisher in publishers:
            await publisher.status("NetStream.Publish.Start")
        return publishers

    async def assert_ended(self) -> None:
        self.assertEqual(await within(self.server.ended), 0, str(self.server))
        self.assertNotIn("Traceback", "\n".join(self.server.lines))


class CallbackTests(ShutdownCase):
    async def start(self, **settings: str) -> None:
        self.app = HTTPApp(SECRET)
        self.app.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.app.stop()))
        self.held: dict[tuple[str, str], Request] = {}
        self.server = Server(self, callback_url=self.app.url, jwt_secret=SECRET, **settings)
        await self.server.up()

    def hold(self, request: Request, event: Event) -> int:
        """Gives no answer yet."""
        self.held[event.name, event.claims["channel"]] = request
        return NOT_DONE_YET

    async def until_held(self, *events: tuple[str, str]) -> None:
        await until(lambda: self.held.keys() >= set(events), f"the events {events}")

    async def test_each_stop_once(self) -> None:
        """For each publish on air, for one that has just ended, and for one that is accepted during the shutdown."""
        await self.start(shutdown_grace_seconds="60")
        publishers = await self.on_air()
        leaver = await self.ask("leaver")
        await leaver.status("NetStream.Publish.Start")
        self.app.answer = self.hold
        leaver.transport.loseConnection()
        publishers += [await self.ask("accepted"), await self.ask("denied")]
        await self.until_held(("stop", "leaver"), ("start", "accepted"), ("start", "denied"))
        self.server.signal(signal.SIGTERM)
        await self.until_held(*(("stop", channel) for channel in ON_AIR))
        for publisher in publishers:
            await within(publisher.lost)
        self.assertIn(REFUSED, codes(publishers[-1].received))
        http_app.accept(self.held["start", "accepted"], self.app.events[-1])
        self.held["start", "denied"].setResponseCode(403)
        for request in list(self.held.values()):
            request.finish()
        await self.until_held(("stop", "accepted"))
        self.assertFalse(self.server.ended.called)
        self.held["stop", "accepted"].finish()
        await self.assert_ended()
        for channel in [*ON_AIR, "leaver", "accepted"]:
            self.assertEqual(self.app.names(channel), ["start", "stop"], channel)
        self.assertEqual(self.app.names("denied"), ["start"])
        self.assertEqual(self.app.problems, [])

    async def test_application_without_an_answer(self) -> None:
        await self.start(shutdown_grace_seconds="1")
        await self.on_air()
        self.app.answer = self.hold
        await self.ask("asking")
        await self.until_held(("start", "asking"))
        self.server.signal(signal.SIGTERM)
        await self.until_held(*(("stop", channel) for channel in ON_AIR))
        await self.assert_ended()
        self.assertTrue(any("gives up 4 pending callback requests" in line for line in self.server.lines))
        self.assertEqual(self.app.names("asking"), ["start"])

    async def test_application_that_is_away(self) -> None:
        """A failed stop is not tried again when the time is over."""
        await self.start(shutdown_grace_seconds="1")
        await self.on_air()
        await self.app.stop()
        self.server.signal(signal.SIGTERM)
        await self.assert_ended()


class CoordinatorTests(ShutdownCase):
    async def start(self, **settings: str) -> None:
        self.coordinator = Coordinator(SECRET)
        self.coordinator.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.coordinator.stop()))
        self.held: dict[str, tuple[Visit, str, dict[str, str]]] = {}
        control = {"control_use": "YES", "control_base_url": self.coordinator.base_url, "control_secret": SECRET}
        self.server = Server(self, **control, **settings)
        await self.server.until("connected to the coordinator")

    def hold(self, visit: Visit, kind: str, parameters: dict[str, str]) -> None:
        if kind == "PUBLISH-REQUEST":
            self.held[parameters["stream-channel"]] = visit, kind, parameters

    def ends(self) -> list[tuple[str, str]]:
        return sorted((end["stream-channel"], end["stream-id"]) for end in self.coordinator.heard("PUBLISH-END"))

    async def test_each_end_once(self) -> None:
        await self.start(shutdown_grace_seconds="60")
        publishers = await self.on_air()
        self.coordinator.on_message = self.hold
        publishers += [await self.ask("accepted"), await self.ask("denied")]
        await until(lambda: len(self.held) == 2, "both requests")
        self.server.signal(signal.SIGTERM)
        for publisher in publishers:
            await within(publisher.lost)
        self.assertIn(REFUSED, codes(publishers[-1].received))
        expected = sorted((channel, f"id-of-{channel}") for channel in ON_AIR)
        await until(lambda: self.ends() == expected, "the end of each that was on air")
        self.assertEqual(self.coordinator.closings, [])
        play.accept(*self.held["accepted"])
        play.deny(*self.held["denied"])
        await self.assert_ended()
        await until(lambda: self.coordinator.closings, "the closing")
        self.assertEqual(self.coordinator.closings, [(True, 1000)])
        self.assertEqual(self.ends(), sorted([*expected, ("accepted", "id-of-accepted")]))

    async def test_coordinator_without_an_answer(self) -> None:
        await self.start(shutdown_grace_seconds="1")
        await self.on_air()
        self.coordinator.on_message = self.hold
        await self.ask("asking")
        await until(lambda: self.held, "the request")
        self.server.signal(signal.SIGTERM)
        await self.assert_ended()
        await until(lambda: self.coordinator.closings, "the closing")
        self.assertEqual(self.ends(), sorted((channel, f"id-of-{channel}") for channel in ON_AIR))
        self.assertEqual(self.coordinator.closings, [(True, 1000)])

    async def test_coordinator_that_is_away(self) -> None:
        await self.start()
        await self.coordinator.stop()
        await self.server.until("the connection to the coordinator at .* was lost")
        self.server.signal(signal.SIGTERM)
        await self.assert_ended()
