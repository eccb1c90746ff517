"""The container's files: compose.yml, cluster.yml and kubernetes.yml use only settings that exist, and the health check
is right.

tools/image-check builds and runs the image itself; it needs root, and takes minutes.
"""

from __future__ import annotations

import re
import socket
import sys
from ipaddress import ip_address, ip_network
from typing import Any

import yaml
from attrs import fields
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.settings import Settings
from tests.support.fakes import within
from tests.support.programs import ROOT, Program, Server, free_port

PREDECESSORS_COMPOSE = """
version: "3.7"
services:
  rtmp_server:
    image: rtmp-twisted
    ports:
      - "1935:1935"
      #- '443:443'
    environment:
      # Configure it using env vars:
      - PLAY_ALLOWED_FROM=*
      - CONCURRENT_LIMIT_WHITELIST=*
      - REDIS_USE=NO
      - RTMP_CHUNK_SIZE=5000
      - LOG_REQUESTS=YES
      - LOG_DEBUG=NO
      - GOP_CACHE_SIZE_MB=0
"""
"""From the READMEs of the servers that this one replaces, with the image's name changed."""


class ComposeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.services: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yml").read_text())["services"]

    def servers(self) -> dict[str, dict[str, str]]:
        """The environment of each service that runs this server."""
        ours = {name: one for name, one in self.services.items() if one.get("build") and "entrypoint" not in one}
        return {name: {key: str(value) for key, value in one["environment"].items()} for name, one in ours.items()}

    def test_servers(self) -> None:
        self.assertEqual(set(self.servers()), {"plain", "rtmps", "callback", "coordinated"})
        known = {field.name.upper() for field in fields(Settings)}
        for name, environment in self.servers().items():
            self.assertEqual(set(environment) - known, set(), name)

    def test_their_settings_can_be_used(self) -> None:
        for name, environment in self.servers().items():
            for file in {"SSL_CERT", "SSL_KEY"} & set(environment):
                environment[file] = __file__
            settings = Settings.load(environment)
            self.assertEqual(settings.warnings(), [], name)

    def test_both_sides_have_the_same_secret(self) -> None:
        for server, other, secret in (
            ("callback", "application", "JWT_SECRET"),
            ("coordinated", "coordinator", "CONTROL_SECRET"),
        ):
            mine, theirs = (self.services[name]["environment"][secret] for name in (server, other))
            self.assertEqual(mine, theirs)
            self.assertGreaterEqual(len(mine.encode()), 32)

    def test_the_predecessors_file(self) -> None:
        [service] = yaml.safe_load(PREDECESSORS_COMPOSE)["services"].values()
        settings = Settings.load(dict(line.split("=", 1) for line in service["environment"]))
        self.assertEqual((settings.rtmp_chunk_size, settings.gop_cache_size_mb, settings.redis_use), (5000, 0, False))
        self.assertTrue(settings.rtmp_play_whitelist.everyone and settings.concurrent_limit_whitelist.everyone)
        self.assertEqual(settings.warnings(), [])

    def test_only_what_is_copied_is_sent(self) -> None:
        """.dockerignore admits exactly what the Dockerfile copies."""
        copied: set[str] = set()
        for line in (ROOT / "docker/Dockerfile").read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                copied |= set(line.split()[1:-1])
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        self.assertEqual({line[1:] for line in ignore if line.startswith("!")}, copied)
        self.assertIn("*", ignore)
        for name in copied:
            self.assertTrue((ROOT / name).exists(), name)


class ClusterComposeTests(SynchronousTestCase):
    """docker/cluster.yml and haproxy.cfg."""

    def setUp(self) -> None:
        self.file: dict[str, Any] = yaml.safe_load((ROOT / "docker/cluster.yml").read_text())
        self.services: dict[str, Any] = self.file["services"]
        self.nodes = [name for name, one in self.services.items() if one.get("build")]

    def test_nodes(self) -> None:
        """Each is reached by its own name; the rest is the same for all of them."""
        self.assertEqual(len(self.nodes), 3)
        shared = []
        for name in self.nodes:
            environment = dict(self.services[name]["environment"])
            settings = Settings.load(environment)
            self.assertEqual(settings.warnings(), [])
            self.assertTrue(settings.cluster_use)
            self.assertEqual(settings.cluster_address, f"rtmp://{name}:1935")
            self.assertIn(settings.redis_host, self.services)
            del environment["CLUSTER_ADDRESS"]
            shared.append(environment)
        self.assertEqual(shared[1:], shared[:-1])

    def test_balancer(self) -> None:
        """It knows all nodes, and it alone sends PROXY headers."""
        config = (ROOT / "docker/haproxy.cfg").read_text()
        servers = re.findall(r"^ +server (\S+) (\S+)$", config, re.M)
        self.assertEqual(servers, [(name, f"{name}:1935") for name in self.nodes])
        self.assertIn("send-proxy-v2", config)
        [subnet] = self.file["networks"]["cluster"]["ipam"]["config"]
        address = self.services["haproxy"]["networks"]["cluster"]["ipv4_address"]
        self.assertIn(ip_address(address), ip_network(subnet["subnet"]))
        proxies = Settings.load(self.services["node1"]["environment"]).proxy_protocol_from
        self.assertEqual(str(proxies), f"{address}/32")
        self.assertIn("/usr/local/etc/haproxy/haproxy.cfg", self.services["haproxy"]["volumes"][0])


class BalancerTests(TestCase):
    async def test_haproxy_takes_its_file(self) -> None:
        program = Program(self, "haproxy", "-c", "-f", str(ROOT / "docker/haproxy.cfg"))
        self.assertEqual(await within(program.ended), 0, str(program))


class KubernetesTests(SynchronousTestCase):
    """docker/kubernetes.yml: what it refers to is there, and its settings can be used."""

    def setUp(self) -> None:
        documents: list[Any] = list(yaml.safe_load_all((ROOT / "docker/kubernetes.yml").read_text()))
        self.kinds = {one["kind"]: one for one in documents}
        self.assertEqual(len(self.kinds), len(documents))
        self.pod = self.kinds["Deployment"]["spec"]["template"]
        [self.container] = self.pod["spec"]["containers"]

    def test_settings(self) -> None:
        environment: dict[str, str] = {}
        secrets = self.kinds["Secret"]["stringData"]
        for variable in self.container["env"]:
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                self.assertEqual(source["secretKeyRef"]["name"], self.kinds["Secret"]["metadata"]["name"])
                variable = {**variable, "value": secrets[source["secretKeyRef"]["key"]]}
            elif source:
                self.assertEqual(source, {"fieldRef": {"fieldPath": "status.podIP"}})
                variable = {**variable, "value": "10.1.2.3"}
            environment[variable["name"]] = variable["value"].replace("$(POD_IP)", environment.get("POD_IP", ""))
        known = {field.name.upper() for field in fields(Settings)}
        self.assertEqual(set(environment) - known, {"POD_IP"})
        settings = Settings.load(environment)
        self.assertEqual(settings.warnings(), [])
        self.assertEqual(settings.cluster_address, "rtmp://10.1.2.3:1935")
        ports = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        self.assertEqual(ports, {"rtmp": settings.rtmp_port, "http": settings.http_port})
        stop = int(self.container["lifecycle"]["preStop"]["exec"]["command"][-1]) + settings.shutdown_grace_seconds
        self.assertGreater(self.pod["spec"]["terminationGracePeriodSeconds"], stop + 20)

    def test_a_service_called_redis_sets_nothing(self) -> None:
        self.assertIs(self.pod["spec"]["enableServiceLinks"], False)

    def test_references(self) -> None:
        labels = self.pod["metadata"]["labels"]
        self.assertEqual(self.kinds["Deployment"]["spec"]["selector"]["matchLabels"], labels)
        self.assertEqual(self.kinds["Service"]["spec"]["selector"], labels)
        self.assertEqual(self.kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"], labels)
        names = {one["name"] for one in self.container["ports"]}
        [port] = self.kinds["Service"]["spec"]["ports"]
        probes = [self.container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
        used = {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes}
        self.assertLessEqual(used | {port["targetPort"]}, names)
        dockerfile = (ROOT / "docker/Dockerfile").read_text()
        self.assertIn(str(self.pod["spec"]["securityContext"]["runAsUser"]), dockerfile)


class HealthTests(TestCase):
    timeout = 120

    async def check(self, **environment: str) -> tuple[int, list[str]]:
        program = Program(self, sys.executable, "-m", "rtmp_twisted.healthcheck", **environment)
        return await within(program.ended), program.lines

    async def test_a_server(self) -> None:
        server = Server(self)
        await server.up()
        self.assertEqual(await self.check(RTMP_PORT=str(server.port)), (0, []))

    async def test_behind_a_proxy(self) -> None:
        server = Server(self, proxy_protocol_from="127.0.0.1", bind_address="127.0.0.1")
        await server.up()
        settings = {"RTMP_PORT": str(server.port), "PROXY_PROTOCOL_FROM": "127.0.0.0/8", "BIND_ADDRESS": "127.0.0.1"}
        self.assertEqual(await self.check(**settings), (0, []))

    async def test_no_server(self) -> None:
        status, [line] = await self.check(RTMP_PORT=str(free_port()))
        self.assertEqual(status, 1)
        self.assertIn("no RTMP server answers", line)

    async def test_a_server_that_is_full(self) -> None:
        server = Server(self, max_connections="1")
        await server.up()
        with socket.create_connection(("127.0.0.1", server.port)):
            status, [line] = await self.check(RTMP_PORT=str(server.port))
        self.assertEqual(status, 1)
        self.assertIn("no RTMP server answers", line)

    async def test_wrong_settings(self) -> None:
        status, [line] = await self.check(RTMP_PORT="http")
        self.assertEqual(status, 1)
        self.assertIn("RTMP_PORT", line)
