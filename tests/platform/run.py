"""The scripted run of a whole platform on one machine: publishers come and go, every party kills, every party restarts.

An HTTP application decides in the first stage, a coordinator in the second; both have a real redis-server and a real
server. `run` returns what was seen and what was wrong (record.py says what must hold and what is excused).
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import treq
from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers

from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import Message
from tests.platform.parties import Application, Coordination, Party
from tests.platform.publishers import KEY, Broadcast, Crowd
from tests.platform.record import Record
from tests.support.fakes import reactor, until, within
from tests.support.programs import Case, Server, free_port
from tests.support.redis_server import RedisServer

SECRET = "a secret of more than thirty-two bytes"
TOKEN = "a-token-of-more-than-thirty-two-bytes"

MOST_SHOWN = 20
"""Most problems that a summary shows."""

LONGEST_DOWN = 1.5
"""Most seconds for which a party is down. A stop is tried again after 1, 3 and 9 s, so none is lost."""
LONGEST_PAUSE = 0.5
"""Most seconds from one act to the next."""

Act = Callable[[], Awaitable[None]]


@define
class Outcome:
    """The result of one stage."""

    title: str
    record: Record
    acts: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)

    def __str__(self) -> str:
        counts = self.record.counts
        lines = [
            f"{self.title}: {counts['publishes']} publishes, {counts['on air']} of them on air",
            f"  {counts['questions']} questions: {counts['accepted']} accepted, {counts['denied']} denied,"
            f" {counts['unanswered']} unanswered when the party went down",
            f"  {counts['ends']} ends, {counts['ends repeated']} of them again as the answer was lost;"
            f" {counts['ends excused']} more went with a killed server or a cut connection",
            "  acts: " + ", ".join(f"{name} {number}" for name, number in sorted(self.acts.items())),
        ]
        lines += [f"  WRONG: {problem}" for problem in self.problems[:MOST_SHOWN]]
        return "\n".join(
            [*lines, *([f"  and more: {len(self.problems)} in all"] if self.problems[MOST_SHOWN:] else [])]
        )


@frozen
class Surroundings:
    """What both stages share. ``case`` ends what was started; ``say`` is called with a line for each act."""

    case: Case
    random: Random
    redis: RedisServer
    workers: int
    say: Callable[[str], None]


class Stage:
    """The platform with one deciding party."""

    def __init__(self, title: str, party: Party, surroundings: Surroundings, **settings: str) -> None:
        self.outcome = Outcome(title, party.record)
        self.record = party.record
        self._party = party
        self._random = surroundings.random
        self._case = surroundings.case
        self._redis = surroundings.redis
        self._say = surroundings.say
        self._workers = surroundings.workers
        self._settings = settings
        self._port, self._http_port = free_port(), free_port()
        self._servers = 0
        self._server: Server
        self._crowd = Crowd(self.record, self._random, self._case, lambda: self._port)

    def acts(self) -> dict[str, Act]:
        """Returns what can happen, by name."""
        return {
            "Redis kill-session": self._kill_session,
            "Redis close-stream": self._close_stream,
            "HTTP kill": self._http_kill,
            "take-over": self._crowd.take_over,
            "restart of Redis": self._restart_redis,
            "SIGTERM": self._terminate,
            "SIGKILL": self._kill_server,
            **({"SIGKILL of a worker": self._kill_worker} if self._workers > 1 else {}),
        }

    async def run(self, seconds: float, publishers: int, ffmpegs: int) -> Outcome:
        """Performs each act at least once, and goes on until ``seconds`` are over."""
        deadline = reactor.seconds() + seconds
        problems = self.outcome.problems
        await self._start_server()
        self._crowd.start(publishers, ffmpegs)
        try:
            await self._act_until(deadline)
            problems += await self._crowd.stop()
            await until(lambda: not self.record.open, "the end of all")
            await self._check_empty()
            await self._stop_server()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            problems += [f"{stream}: no end" for stream in self.record.owed() if stream.accepted]
            self._look_at_log()
            self.record.cut(self._party.sender)
            await self._server.kill()
            problems += await self._crowd.stop()
        await self._party.stop()
        problems += self.record.verify()
        return self.outcome

    async def _act_until(self, deadline: float) -> None:
        while True:
            acts = list(self.acts().items())
            self._random.shuffle(acts)
            for name, act in acts:
                if reactor.seconds() > deadline and len(self.outcome.acts) == len(acts):
                    return
                await self._pause(LONGEST_PAUSE)
                self._say(f"{self.outcome.title}: {name}, with {len(self._crowd.on_air)} on air")
                await act()
                self.outcome.acts[name] += 1

    # The server

    async def _start_server(self) -> None:
        self._servers += 1
        name = f"server-{self._servers}"
        self._party.new_server(name)
        self._server = Server(
            self._case,
            rtmp_port=str(self._port),
            rtmp_host=name,
            http_port=str(self._http_port),
            http_token=TOKEN,
            redis_use="YES",
            redis_port=str(self._redis.port),
            publish_takeover_seconds="1",
            shutdown_grace_seconds="30",
            workers=str(self._workers),
            **self._settings,
        )
        await self._server.up()
        if self._workers > 1:
            await self._all_ready()
        await self._server.until("connected to Redis")

    async def _stop_server(self) -> None:
        """Sends SIGTERM. Pending questions are answered only when all publishers have been disconnected."""
        self.record.stopping(self._party.sender)
        self._party.decider.hold()
        publishes = self.record.under_way()
        self._server.signal(signal.SIGTERM)
        await until(lambda: all(publish.over for publish in publishes), "the end of all connections")
        if self.record.asking():
            await deferLater(reactor, 0.5)  # in which it has time to go too early
        self._party.decider.release()
        status = await within(self._server.ended)
        if status != 0:
            self.outcome.problems.append(f"SIGTERM ended {self._party.sender.name} with status {status}")
        self._look_at_log()

    def _look_at_log(self) -> None:
        for line in self._server.lines:
            if re.match(r"\S+ (error|critical) (?!worker \d+ )", line) or any(
                word in line for word in ("Traceback", SECRET, TOKEN, KEY)
            ):
                self.outcome.problems.append(f"{self._party.sender.name} logged: {line}")

    async def _terminate(self) -> None:
        """Stops the server while there are a publish on air and a pending question."""
        await until(lambda: self._crowd.on_air and self.record.asking(), "a question")
        await self._stop_server()
        await self._start_server()

    async def _kill_server(self) -> None:
        """Kills it while no end is on its way: only streams on air and pending questions are excused."""
        await self._settle()
        self.record.cut(self._party.sender)
        self._server.signal(signal.SIGKILL)
        await within(self._server.ended)
        self._look_at_log()
        await self._start_server()

    async def _kill_worker(self) -> None:
        """Kills one of them, whatever it does: the supervisor tells each end."""
        self.record.interrupt()
        number = self._random.randint(1, self._workers)
        before = len(self._ready(number))
        os.kill(int(self._ready(number)[-1]), signal.SIGKILL)
        await until(lambda: len(self._ready(number)) > before, f"worker {number}, once more")
        await self._settle()

    def _ready(self, number: int) -> list[str]:
        """The processes that this worker has been."""
        pattern = re.compile(rf" worker {number} is ready \(process (\d+)\)")
        return [found[1] for line in self._server.lines if (found := pattern.search(line))]

    async def _all_ready(self) -> None:
        for number in range(1, self._workers + 1):
            await self._server.until(rf" worker {number} is ready")

    async def _settle(self) -> None:
        await until(lambda: not self.record.owed(), "the end of each publish whose publisher has gone")

    async def _check_empty(self) -> None:
        """Fails unless the server has no channel left, perhaps after a moment."""
        for _ in range(100):
            found = await self._http("GET", "/api/v1/channels")
            if found == {"total": 0, "channels": []}:
                return
            await deferLater(reactor, 0.1)
        raise AssertionError(f"the server still has channels: {found}")

    # Kills

    async def _gone(self, victim: Broadcast) -> None:
        await until(lambda: victim.publish.over, f"the end of the publish on channel {victim.publish.channel}")

    async def _spared(self, other: Broadcast) -> None:
        """Fails unless this publisher is still on air: the server must answer it."""
        assert other.connection is not None
        number = self._random.randrange(2**32)
        other.connection.send(messages.user_control(messages.PING_REQUEST, number))

        def is_answer(message: Message) -> bool:
            wanted = (messages.PING_RESPONSE, number.to_bytes(4, "big"))
            return message.type_id == messages.USER_CONTROL and messages.parse_user_control(message) == wanted

        await other.connection.until(is_answer, "an answer of the server to one that was not killed")
        other.leave()

    def _stream_id(self, victim: Broadcast) -> str:
        return self.record.on_air()[victim.publish.key].stream_id

    async def _command(self, text: str) -> None:
        """Publishes a command on the Redis channel, as soon as the server listens there."""
        await until(lambda: self._redis.publish("rtmp_commands", text) >= 1, "the server's connection to Redis")

    async def _kill_session(self) -> None:
        victim = await self._crowd.victim()
        await self._command(f"kill-session>{victim.publish.channel}")
        await self._gone(victim)

    async def _close_stream(self) -> None:
        other, victim = await self._crowd.victim(cheap=True), await self._crowd.victim()
        await self._command(f"close-stream>{other.publish.channel}|{self._stream_id(victim)}")
        await self._command(f"CLOSE-STREAM>{victim.publish.channel}|{self._stream_id(victim)}")
        await self._gone(victim)
        await self._spared(other)

    async def _http_kill(self) -> None:
        victim = await self._crowd.victim()
        await self._http("POST", f"/api/v1/channels/{victim.publish.channel}/kill")
        await self._gone(victim)

    async def _http(self, method: str, path: str) -> Any:
        headers = Headers({"authorization": [f"Bearer {TOKEN}"]})
        url = f"http://127.0.0.1:{self._http_port}{path}"
        response = await within(treq.request(method, url, headers=headers, persistent=False))
        return json.loads(await within(response.content()))

    # Restarts

    async def _restart_redis(self) -> None:
        await self._redis.stop()
        await self._pause(LONGEST_DOWN)
        await self._redis.start()

    def _pause(self, longest: float) -> Awaitable[None]:
        return deferLater(reactor, self._random.uniform(0, longest))


class CallbackStage(Stage):
    def __init__(self, application: Application, surroundings: Surroundings) -> None:
        super().__init__("callback", application, surroundings, callback_url=application.url, jwt_secret=SECRET)
        self._application = application

    def acts(self) -> dict[str, Act]:
        return super().acts() | {"restart of the application": self._restart_application}

    async def _restart_application(self) -> None:
        await self._application.restart(self._random.uniform(0, LONGEST_DOWN))


class CoordinatorStage(Stage):
    def __init__(self, coordination: Coordination, surroundings: Surroundings) -> None:
        settings = {"control_use": "YES", "control_base_url": coordination.url, "control_secret": SECRET}
        super().__init__("coordinator", coordination, surroundings, **settings)
        self._coordination = coordination

    def acts(self) -> dict[str, Act]:
        return super().acts() | {
            "STREAM-KILL by id": self._kill_by_id,
            "STREAM-KILL by *": self._kill_any,
            "restart of the coordinator": self._restart_coordinator,
            "loss of the coordinator": self._drop_coordinator,
        }

    async def _start_server(self) -> None:
        await super()._start_server()
        await until(lambda: self._coordination.connected, "the connection to the coordinator")

    async def _kill_by_id(self) -> None:
        other, victim = await self._crowd.victim(cheap=True), await self._crowd.victim()
        self._coordination.kill(other.publish.channel, self._stream_id(victim))
        self._coordination.kill(victim.publish.channel, self._stream_id(victim))
        await self._gone(victim)
        await self._spared(other)

    async def _kill_any(self) -> None:
        victim = await self._crowd.victim()
        self._coordination.kill(victim.publish.channel, "*")
        await self._gone(victim)

    async def _restart_coordinator(self) -> None:
        await self._lose(lambda: self._coordination.restart(self._random.uniform(0, LONGEST_DOWN)))

    async def _drop_coordinator(self) -> None:
        await self._lose(self._coordination.drop)

    async def _lose(self, lose: Act) -> None:
        """Loses the coordinator. Whoever is on air then is disconnected."""
        victims = [await self._crowd.victim() for _ in range(2)]
        await self._settle()
        await lose()
        for victim in victims:
            await self._gone(victim)


async def run(
    case: Case,
    seconds: float,
    seed: int,
    publishers: int,
    ffmpegs: int,
    say: Callable[[str], None],
    workers: int = 1,
) -> list[Outcome]:
    """Runs both stages, each for half of ``seconds``, or longer if that is too short for each act to happen once."""
    random = Random(seed)
    redis = RedisServer()
    case.addCleanup(lambda: Deferred.fromCoroutine(redis.dispose()))
    await redis.start()
    surroundings = Surroundings(case, random, redis, workers, say)
    application = Application(Record(), random, SECRET)
    callback = await CallbackStage(application, surroundings).run(seconds / 2, publishers, ffmpegs)
    coordination = Coordination(Record(), random, SECRET)
    return [callback, await CoordinatorStage(coordination, surroundings).run(seconds / 2, publishers, ffmpegs)]
