"""The package's structure: which room knows which, what a frame touches, and the states as the pages draw them."""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.publication import PUBLISH_TRANSITIONS, PublishState
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.interfaces import CONNECTION_TRANSITIONS, ConnectionState
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.states import IllegalTransition, Transitions
from tests.support.fakes import reactor, until
from tests.support.programs import ROOT
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, aac, avc, client

PACKAGE = "rtmp_twisted"
ROOMS = ["wire", "media", "live", "rtmp", "relay", "web", "cluster", "integrations"]
"""Each room knows only those before it. (relay/, web/ and integrations/ do not know each other, and cluster/ knows
relay/ only.)"""
STRANGERS = {"relay", "web", "integrations", "cluster"}
KNOWN = {"cluster": {"relay"}}
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
IMPORTS = ast.Import, ast.ImportFrom
FRAME_FILES = 8
"""A frame's way from the socket to the players' sockets touches so many files at most."""


def modules() -> dict[str, Path]:
    """The package's modules by name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The package's modules that a module imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name in known and name != PACKAGE)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and parts[1] in ROOMS) else ""


class RoomTests(SynchronousTestCase):
    def setUp(self) -> None:
        known = modules()
        self.graph = {module: set(imports(path, known)) - {module} for module, path in known.items()}

    def test_no_circle(self) -> None:
        """Also inside a room. Raises CycleError, which names the modules."""
        rooms = {f"{PACKAGE}.{name}" for name in ROOMS}  # of which only the docstring is imported
        order = list(TopologicalSorter({module: found - rooms for module, found in self.graph.items()}).static_order())
        self.assertGreater(len(order), 40)

    def test_rooms(self) -> None:
        for module, found in self.graph.items():
            here = room(module)
            if here:
                strangers = STRANGERS - {here} - KNOWN.get(here, set()) if here in STRANGERS else set()
                allowed = {"", *ROOMS[: ROOMS.index(here) + 1]} - strangers
                beyond = {other for other in found if room(other) not in allowed}
                self.assertEqual(beyond, set(), module)
                self.assertNotIn(f"{PACKAGE}.tap", found, module)

    def test_pure_rooms(self) -> None:
        for module, path in modules().items():
            if room(module) in ("wire", "media"):
                text = path.read_text()
                self.assertIsNone(re.search(r"^\s*(from|import) (twisted|time|random|socket|os|select)\b", text, re.M))

    def test_imports_are_done_at_the_start(self) -> None:
        """Only what puts the server together imports as it goes: an import later on would stop all that is on air."""
        starting = {f"{PACKAGE}.{name}" for name in ("tap", "worker", "__main__")}
        for module, path in modules().items():
            functions = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, FUNCTIONS)]
            late = [one for function in functions for one in ast.walk(function) if isinstance(one, IMPORTS)]
            if module in starting:
                self.assertNotEqual(late, [], module)
            else:
                self.assertEqual([ast.unparse(one) for one in late], [], module)


class FrameTests(TestCase):
    """A frame's way, seen by a profiler."""

    timeout = 60

    async def test_files(self) -> None:
        scheduler = FlushScheduler(reactor, 0.1, reactor.seconds, Turns(reactor))
        broker = Broker(reactor, AcceptAll(), scheduler)
        poller = PublisherPoller(reactor, reactor, scheduler.flush_pending, lambda: 0.0)
        factory = RTMPFactory(SessionOptions(broker=broker, clock=reactor), poller=poller)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        clients = [await client(port.getHost().port) for _ in range(11)]
        publisher, *players = clients
        await publisher.open()
        await publisher.publish()
        publisher.send(AVC_HEADER, avc(0, True))
        for player in players:
            await player.open()
            await player.play()
        await self.received(players, 2)
        touched: set[str] = set()
        publisher.send(avc(40, False), aac(45))
        own = {id(one.connection) for one in clients}

        def profile(frame: FrameType, event: str, _: Any) -> None:
            path = frame.f_code.co_filename
            if event == "call" and f"/{PACKAGE}/" in path and id(frame.f_locals.get("self")) not in own:
                touched.add(path.rpartition(f"/{PACKAGE}/")[2])

        done = poller.doRead

        def read() -> None:  # what the reactor calls when a publisher's socket is readable
            sys.setprofile(profile)
            try:
                done()
            finally:
                sys.setprofile(None)

        self.assertIs(threading.current_thread(), threading.main_thread())
        self.patch(poller, "doRead", read)
        await self.received(players, 4)
        self.assertIn("rtmp/poller.py", touched)
        self.assertIn("live/publication.py", touched)
        self.assertLessEqual(len(touched), FRAME_FILES, touched)
        for one in clients:
            one.transport.abortConnection()
        await until(lambda: not factory.connections, "the end of all")

    async def received(self, players: list[RTMPClient], count: int) -> None:
        await until(lambda: all(len(player.media()) >= count for player in players), "media")


class StateTests(SynchronousTestCase):
    def test_what_is_not_listed_raises(self) -> None:
        tables: list[tuple[Any, Transitions[Any]]] = [
            (PublishState, PUBLISH_TRANSITIONS),
            (ConnectionState, CONNECTION_TRANSITIONS),
        ]
        for states, transitions in tables:
            self.assertEqual(set(transitions.table), set(states))
            for old in states:
                for new in states:
                    if new in transitions.table[old]:
                        self.assertIs(transitions.move(old, new), new)
                    else:
                        self.assertRaises(IllegalTransition, transitions.move, old, new)

    def test_the_drawings(self) -> None:
        """docs/architecture.md draws each table: the same states and the same arrows."""
        page = (ROOT / "docs/architecture.md").read_text()
        drawings = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", page, re.S)
        tables: list[Transitions[Any]] = [PUBLISH_TRANSITIONS, CONNECTION_TRANSITIONS]
        for drawing, transitions in zip(drawings, tables, strict=True):
            names = dict(re.findall(r'state "([^"]+)" as (\w+)', drawing))
            drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", drawing, re.M))
            expected = {
                (names.get(old.value, old.value), names.get(new.value, new.value))
                for old, following in transitions.table.items()
                for new in following
            }
            self.assertEqual(drawn, expected)
