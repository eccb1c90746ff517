"""Each integration is imported and started only when its setting is on."""

from __future__ import annotations

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
ours = [name for name in sys.modules if name.startswith("rtmp_twisted.integrations.")]
print(json.dumps([imported, ours, [type(service).__name__ for service in services]]))
"""
COORDINATOR = {"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1/"}


class ImportTests(SynchronousTestCase):
    def assemble(self, **settings: str) -> tuple[list[str], list[str], list[str]]:
        """Returns which libraries and modules of integrations/ are imported with these settings, and the services."""
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

    def test_callback(self) -> None:
        self.check({"treq", "jwt"}, {"CallbackAuthority"}, CALLBACK_URL="http://127.0.0.1/")

    def test_redis(self) -> None:
        self.check({"txredisapi"}, {"RedisCommands"}, REDIS_USE="YES")

    def test_coordinator(self) -> None:
        self.check({"autobahn", "jwt"}, {"CoordinatorAuthority"}, **COORDINATOR)

    def test_coordinator_in_place_of_the_callback(self) -> None:
        services = {"CoordinatorAuthority"}
        self.check({"autobahn", "jwt"}, services, CALLBACK_URL="http://127.0.0.1/", **COORDINATOR)

    def test_http(self) -> None:
        self.check({"prometheus_client"}, {"OperatorHTTP"}, HTTP_PORT="8080")
