"""Bad answers of the callback and the coordinator, and bad settings, in a server process."""

from __future__ import annotations

import sys
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support import http_app
from tests.support.coordinator import Coordinator, Visit
from tests.support.fakes import until, within
from tests.support.http_app import HTTPApp
from tests.support.programs import ROOT, Program, Server
from tests.support.rtmp_client import aac, client

SECRET = "a secret of more than thirty-two bytes"
UNUSABLE = ["x" * 10_000, "a\x01b", "a\tb"]
STARTED, REFUSED = "NetStream.Publish.Start", "NetStream.Publish.BadName"


class AnswerCase(TestCase):
    timeout = 120
    server: Server

    async def publish(self, channel: str, expected: str) -> None:
        """Publishes and gets the status ``expected``. Then the publisher leaves, or is disconnected."""
        publisher = await client(self.server.port)
        await publisher.open(channel)
        publisher.call("publish", None, "key", "live", stream_id=1)
        await publisher.status(expected)
        if expected == STARTED:
            publisher.send(aac(0))
            publisher.transport.loseConnection()
        await within(publisher.lost)

    async def check(self, answer_with: Callable[[str | None], None], ends: Callable[[], list[str]]) -> None:
        """A missing id is an empty one. An unusable one refuses the publish, and its end is told. The server lives."""
        for number, stream_id in enumerate([None, *UNUSABLE, "good"]):
            answer_with(stream_id)
            await self.publish(f"channel{number}", REFUSED if stream_id in UNUSABLE else STARTED)
            await until(lambda expected=number + 1: len(ends()) == expected, "the end")  # type: ignore[misc]
        self.assertEqual(ends(), ["", *UNUSABLE, "good"])
        log = "\n".join(self.server.lines)
        self.assertNotIn("Traceback", log)
        self.assertNotIn(" error ", log)
        self.assertIn("a stream id of 10000 characters (the limit is 1024)", log)
        self.assertIn("a stream id with control characters", log)
        self.assertNotIn("xxx", log)
        self.assertNotIn("\x01", log)


class CallbackTests(AnswerCase):
    async def start(self, secret: str) -> HTTPApp:
        app = HTTPApp(secret)
        app.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(app.stop()))
        self.server = Server(self, callback_url=app.url, jwt_secret=secret)
        await self.server.up()
        return app

    async def test_stream_ids(self) -> None:
        app = await self.start(SECRET)

        def answer_with(stream_id: str | None) -> None:
            headers = {} if stream_id is None else {"stream_id": stream_id}
            app.answer = http_app.status(200, **headers)

        await self.check(
            answer_with, lambda: [event.claims["stream_id"] for event in app.events if event.name == "stop"]
        )

    async def test_empty_secret(self) -> None:
        """The server warns, and works with an application whose secret is empty too."""
        app = await self.start("")
        await self.server.until(" warn(ing)? JWT_SECRET is empty: anybody can forge callbacks")
        await self.publish("tv", STARTED)
        await until(lambda: app.names("tv") == ["start", "stop"], "both events")
        self.assertEqual(app.problems, [])


class CoordinatorTests(AnswerCase):
    async def start(self, path: str = "", **settings: str) -> Coordinator:
        coordinator = Coordinator(SECRET)
        coordinator.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(coordinator.stop()))
        url = coordinator.base_url + path
        self.server = Server(self, control_use="YES", control_base_url=url, control_secret=SECRET, **settings)
        await self.server.until("connected to the coordinator")
        return coordinator

    async def test_stream_ids(self) -> None:
        coordinator = await self.start()

        def answer_with(stream_id: str | None) -> None:
            def answer(visit: Visit, kind: str, parameters: dict[str, str]) -> None:
                if kind == "PUBLISH-REQUEST":
                    line = "" if stream_id is None else f"Stream-ID:{stream_id}\n"
                    about = f"Request-ID:{parameters['request-id']}\nStream-Channel:{parameters['stream-channel']}\n"
                    visit.say(f"PUBLISH-ACCEPT\n{about}{line}")

            coordinator.on_message = answer

        await self.check(answer_with, lambda: [end["stream-id"] for end in coordinator.heard("PUBLISH-END")])

    async def test_path_in_the_base_url(self) -> None:
        """It is replaced, as a link on a page replaces it."""
        coordinator = await self.start("/some/path/", external_port="1936")
        [(path, headers)] = coordinator.requests
        self.assertEqual((path, headers["x-custom-port"]), ("/ws/control/rtmp", "1936"))
        await self.publish("tv", STARTED)


class SettingsTests(TestCase):
    timeout = 60

    async def test_one_line_each(self) -> None:
        """The exit status is 1, too."""
        control = {"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1:1/"}
        for settings, beginning in (
            (
                {**control, "CONTROL_BASE_URL": "coordinator"},
                "CONTROL_BASE_URL: 'coordinator' cannot be used; it takes",
            ),
            ({**control, "CONTROL_BASE_URL": "http://127.0.0.1/"}, "CONTROL_BASE_URL: 'http://127.0.0.1/' cannot be "),
            ({**control, "CONTROL_BASE_URL": "ws://"}, "CONTROL_BASE_URL: 'ws://' cannot be used; it takes"),
            ({**control, "CONTROL_BASE_URL": ""}, "CONTROL_USE: CONTROL_BASE_URL is needed with it"),
            ({**control, "EXTERNAL_PORT": "http"}, "EXTERNAL_PORT: 'http' cannot be used; it takes a whole number"),
            ({**control, "EXTERNAL_PORT": "65536"}, "EXTERNAL_PORT: '65536' cannot be used; it takes a whole number"),
            ({"CALLBACK_URL": "127.0.0.1:80"}, "CALLBACK_URL: '127.0.0.1:80' cannot be used; it takes"),
        ):
            command = "from twisted.scripts.twistd import run; run()"
            arguments = (sys.executable, "-c", command, "-n", "--pidfile=", "rtmp")
            server = Program(self, *arguments, PYTHONPATH=str(ROOT), **settings)
            self.assertEqual(await within(server.ended), 1, str(server))
            [line] = server.lines
            self.assertTrue(line.startswith(beginning), line)
