"""Each integration is imported and started only when its setting is on; what the modules of each room may import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.support.programs import ROOT

LIBRARIES = ["autobahn", "jwt", "prometheus_client", "treq", "txredisapi"]
ASSEMBLE = f"""
import json, os, sys
from twisted.internet import reactor
from rtmp_twisted.settings import Settings
from rtmp_twisted.tap import assemble

services = assemble(Settings.load(os.environ), reactor)
imported = [name for name in {LIBRARIES} if name in sys.modules]
rooms = "rtmp_twisted.integrations.", "rtmp_twisted.relay.", "rtmp_twisted.cluster", "rtmp_twisted.worker"
ours = [name for name in sys.modules if name.startswith(rooms)]
print(json.dumps([imported, ours, [type(service).__name__ for service in services]]))
"""
COORDINATOR = {"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1/"}


class ImportTests(SynchronousTestCase):
    def assemble(self, **settings: str) -> tuple[list[str], list[str], list[str]]:
        """Returns which libraries and modules of integrations/, relay/ and cluster/ are imported with these settings,
        and the services."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
        done = subprocess.run(
            [sys.executable, "-c", ASSEMBLE], env=environment, capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        imported, ours, services = json.loads(done.stdout)
        return imported, ours, services

    def check(self, libraries: set[str], services: set[str], **settings: str) -> None:
        imported, _, found = self.assemble(**settings)
        self.assertEqual(set(imported), libraries)
        self.assertEqual(set(found), {"Broker", "RTMPService", *services})

    def test_nothing_is_on(self) -> None:
        imported, ours, services = self.assemble()
        self.assertEqual((imported, ours, sorted(services)), ([], [], ["Broker", "RTMPService"]))

    def test_workers(self) -> None:
        """The supervisor has neither broker nor relays."""
        imported, ours, services = self.assemble(WORKERS="2", PUSH="*=rtmp://127.0.0.1/app/key")
        self.assertEqual((imported, sorted(services)), ([], ["PortsService", "Supervisor"]))
        self.assertEqual([name for name in ours if not name.startswith("rtmp_twisted.cluster")], [])

    def test_callback(self) -> None:
        self.check({"treq", "jwt"}, {"CallbackAuthority"}, CALLBACK_URL="http://127.0.0.1/")

    def test_redis(self) -> None:
        self.check({"txredisapi"}, {"RedisCommands"}, REDIS_USE="YES")

    def test_cluster(self) -> None:
        node = {"CLUSTER_USE": "YES", "CLUSTER_ADDRESS": "rtmp://127.0.0.1", "CLUSTER_SECRET": "s" * 32}
        self.check({"txredisapi", "jwt"}, {"RedisDirectory", "EdgeService"}, **node)
        called = {"RedisDirectory", "RecordedAuthority", "EdgeService", "CallbackAuthority"}
        self.check({"txredisapi", "jwt", "treq"}, called, **node, CALLBACK_URL="http://127.0.0.1/")

    def test_coordinator(self) -> None:
        self.check({"autobahn", "jwt"}, {"CoordinatorAuthority"}, **COORDINATOR)

    def test_coordinator_in_place_of_the_callback(self) -> None:
        services = {"CoordinatorAuthority"}
        self.check({"autobahn", "jwt"}, services, CALLBACK_URL="http://127.0.0.1/", **COORDINATOR)

    def test_http(self) -> None:
        self.check({"prometheus_client"}, {"OperatorHTTP", "RelayService"}, HTTP_PORT="8080")

    def test_relays(self) -> None:
        self.check(set(), {"RelayService"}, PUSH="*=rtmp://127.0.0.1/app/key")
        self.check(set(), {"RelayService"}, PULL="tv/key=rtmp://127.0.0.1/app/name")

    def test_web(self) -> None:
        """autobahn is for viewers over WebSocket; PyJWT comes where there are tokens."""
        self.check({"autobahn"}, {"WatchHTTP"}, WEB_PORT="8080")
        self.check({"autobahn", "jwt"}, {"WatchHTTP"}, WEB_PORT="8080", WEB_PLAY="token", PLAY_SECRET="s" * 32)
        self.check({"jwt"}, set(), PLAY_SECRET="s" * 32)


class RoomTests(SynchronousTestCase):
    """What the modules of a room import, also for type checkers only."""

    def imports(self, room: str) -> dict[str, set[str]]:
        """Returns the modules of this package that each module of a room imports, without the package's name."""
        found: dict[str, set[str]] = {}
        for path in (ROOT / "rtmp_twisted" / room).glob("*.py"):
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            modules = {node.module or "" for node in nodes}
            names = {name.removeprefix("rtmp_twisted.") for name in modules if name.startswith("rtmp_twisted.")}
            found[f"{room}.{path.stem}"] = names
        return found

    def check(self, room: str, *allowed: str) -> None:
        graph = self.imports(room)
        for module, imported in graph.items():
            others = {name.partition(".")[0] for name in imported} - {room, *allowed}
            self.assertEqual(others, set(), module)
        while graph:  # what imports nothing of this room that is left, goes
            free = [module for module, imported in graph.items() if not imported & graph.keys()]
            self.assertTrue(free, f"a circle among {sorted(graph)}")
            for module in free:
                del graph[module]

    def test_integrations(self) -> None:
        self.check("integrations", "live", "peer_errors", "reconnecting", "redis_connection")

    def test_web(self) -> None:
        self.check("web", "wire", "media", "live", "rtmp", "_version", "settings_types", "ports", "logs")

    def test_reactor(self) -> None:
        """None of these rooms imports the reactor: it is passed in."""
        for room in "integrations", "relay", "web", "cluster":
            for path in (ROOT / "rtmp_twisted" / room).glob("*.py"):
                self.assertNotIn("import reactor", path.read_text(), path.name)
