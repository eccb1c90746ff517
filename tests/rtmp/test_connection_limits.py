"""rtmp_twisted.rtmp.limits and door: who may come in, without a socket."""

from __future__ import annotations

import resource
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.limits import SPARE_FILES, ConnectionLimits, most_connections
from rtmp_twisted.rtmp.listener import PROXY_HEADER_SECONDS, Listener
from rtmp_twisted.settings_types import Networks
from tests.support.fakes import Log
from tests.support.memory import Client, MemoryTransport, World
from tests.support.proxied import version_1
from tests.support.rtmp_client import HANDSHAKE

PROXY = "10.0.0.9"


def limits(total: int = 100, per_address: int = 2, exempt: str = "") -> ConnectionLimits:
    return ConnectionLimits(total, per_address, Networks.parse(exempt) if exempt else Networks())


class GateTests(SynchronousTestCase):
    def enter(self, gate: ConnectionLimits, *addresses: str) -> list[bool]:
        """Whether each was let in."""
        found = []
        for address in addresses:
            found.append(not gate.refuses(address))
            if found[-1]:
                gate.enter(address)
        return found

    def test_per_address(self) -> None:
        gate = limits(per_address=2)
        self.assertEqual(self.enter(gate, "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"), [True] * 3 + [False])
        gate.leave("192.0.2.1")
        self.assertEqual(self.enter(gate, "192.0.2.1", "192.0.2.1"), [True, False])
        self.assertEqual(gate.refused, {"address_limit": 2})

    def test_exempt(self) -> None:
        gate = limits(per_address=1, exempt="192.0.2.0/24,2001:db8::/32")
        self.assertEqual(self.enter(gate, *["192.0.2.1", "2001:db8::1"] * 3), [True] * 6)
        self.assertEqual(self.enter(gate, "192.0.3.1", "192.0.3.1"), [True, False])

    def test_a_unix_socket_has_no_address(self) -> None:
        self.assertEqual(self.enter(limits(total=5, per_address=1), *[""] * 6), [True] * 5 + [False])

    def test_total(self) -> None:
        gate = limits(total=2, exempt="*")
        self.assertEqual(self.enter(gate, "192.0.2.1", "192.0.2.2", "192.0.2.3"), [True, True, False])
        gate.leave("192.0.2.1")
        self.assertEqual(self.enter(gate, "192.0.2.3"), [True])
        self.assertEqual(gate.refused, {"total_limit": 1})

    @given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60))
    def test_counted(self, events: list[tuple[str, bool]]) -> None:
        """Whoever comes and goes: never more than the limits, and nothing is left of those who have gone."""
        gate = limits(total=5, per_address=2)
        inside: list[str] = []
        for address, comes in events:
            if comes:
                may = len(inside) < 5 and inside.count(address) < 2
                self.assertEqual(self.enter(gate, address), [may])
                inside += [address] * may
            elif address in inside:
                inside.remove(address)
                gate.leave(address)
            self.assertEqual(gate.inside, len(inside))
        for address in inside:
            gate.leave(address)
        self.assertEqual((gate.inside, gate.remembered), (0, 0))

    def test_told_once(self) -> None:
        log = Log(self)
        gate = limits(total=3, per_address=1)
        for _ in range(5):
            self.enter(gate, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
        [line] = log.lines()
        self.assertIn("MAX_CONNECTIONS", line)
        gate = limits(per_address=1)
        self.enter(gate, *["192.0.2.1"] * 5)
        [_, line] = log.lines()
        self.assertIn("192.0.2.1", line)
        self.assertIn("MAX_IP_CONCURRENT_CONNECTIONS", line)
        self.assertIn("CONCURRENT_LIMIT_WHITELIST", line)
        gate.leave("192.0.2.1")
        self.enter(gate, *["192.0.2.1"] * 5)
        self.assertEqual(log.lines()[2:], [line], "it had gone, and came back")


class FileLimitTests(SynchronousTestCase):
    def test_what_the_system_allows(self) -> None:
        for limit, wanted, expected, raised in (
            ((1024, 4096), 0, 4096 - SPARE_FILES, (4096, 4096)),
            ((1024, 4096), 100, 100, (4096, 4096)),
            ((1024, 4096), 10_000, 4096 - SPARE_FILES, (4096, 4096)),
            ((4096, 4096), 0, 4096 - SPARE_FILES, None),
            ((1024, resource.RLIM_INFINITY), 0, 1_000_000, (1_000_000 + SPARE_FILES, resource.RLIM_INFINITY)),
            ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 0, 1_000_000, None),
            ((20, 20), 0, 1, None),
        ):
            calls: list[tuple[int, int]] = []
            self.patch(resource, "getrlimit", lambda _, limit=limit: limit)
            self.patch(resource, "setrlimit", lambda _, new, calls=calls: calls.append(new))
            self.assertEqual(most_connections(wanted), expected, limit)
            self.assertEqual(calls, [] if raised is None else [raised])


class ListenerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.limits = self.world.factory.limits = limits(total=10, per_address=2)
        self.listener = Listener(self.limits, self.world.factory, Networks.parse(PROXY), self.world.clock)

    def come(self, where: IAddress) -> Client | None:
        protocol: Any = self.listener.buildProtocol(where)
        if protocol is None:
            return None
        transport = MemoryTransport(getattr(where, "host", ""))
        protocol.makeConnection(transport)
        return Client(self.world, protocol, transport)

    def through_proxy(self, *data: bytes) -> Client:
        client = self.come(IPv4Address("TCP", PROXY, 40000))
        assert client is not None
        for piece in data:
            client.feed(piece)
        return client

    def test_one_limit_for_all_forms_of_an_address(self) -> None:
        for where in (
            (IPv4Address("TCP", "192.0.2.1", 1), IPv6Address("TCP", "::ffff:192.0.2.1", 1)),
            (IPv6Address("TCP", "2001:db8::1", 1), IPv6Address("TCP", "2001:DB8:0::1", 2)),
            (IPv6Address("TCP", "fe80::1%eth0", 1), IPv6Address("TCP", "fe80::1", 2)),
        ):
            first, second = self.come(where[0]), self.come(where[1])
            assert first is not None and second is not None
            for again in where:
                self.assertIsNone(self.come(again))
            first.leave()
            second.leave()
        self.assertEqual(self.limits.inside, 0)

    def test_unix_socket(self) -> None:
        self.assertEqual([self.come(UNIXAddress("")) is not None for _ in range(11)], [True] * 10 + [False])

    def test_nothing_is_made_of_what_is_turned_away(self) -> None:
        where = IPv4Address("TCP", "192.0.2.1", 1)
        self.come(where), self.come(where)
        self.assertIsNone(self.listener.buildProtocol(where))
        self.assertEqual((self.world.factory.accepted, self.limits.inside), (2, 2))

    def test_given_back_at_each_end(self) -> None:
        """Before a word, in the handshake, when the server closes, and after an orderly session."""
        where = IPv4Address("TCP", "192.0.2.1", 1)
        for data in b"", HANDSHAKE[:100], b"GET / HTTP/1.1\r\n\r\n", HANDSHAKE + bytes(1536):
            client = self.come(where)
            assert client is not None
            client.feed(data)
            client.leave()
            self.assertEqual(self.limits.inside, 0, data[:10])

    def test_the_client_behind_a_proxy(self) -> None:
        header = version_1("192.0.2.7")
        for pieces in (header + HANDSHAKE + bytes(1536),), tuple(bytes((byte,)) for byte in header + HANDSHAKE):
            client = self.through_proxy(*pieces)
            self.assertEqual(len(client.transport.value()), 1 + 1536 + 1536, "the handshake's answer")
            [connection] = self.world.factory.connections
            self.assertEqual(connection.peer, "192.0.2.7")
            client.leave()
            self.assertEqual((self.limits.inside, self.world.factory.connections), (0, {}))

    def test_the_client_s_address_counts_not_the_proxy_s(self) -> None:
        for _ in range(2):
            self.through_proxy(version_1("192.0.2.7"))
        for _ in range(3):
            self.through_proxy()
        self.assertEqual(self.limits.inside, 5)
        self.assertIsNone(self.come(IPv4Address("TCP", "192.0.2.7", 1)))
        refused = self.through_proxy(version_1("192.0.2.7") + HANDSHAKE)
        self.assertTrue(refused.transport.aborted)
        self.assertEqual(refused.transport.value(), b"")
        refused.leave()
        self.assertEqual((self.limits.inside, self.limits.refused), (5, {"address_limit": 2}))

    def test_the_proxy_s_own_connections(self) -> None:
        client = self.through_proxy(b"PROXY UNKNOWN\r\n" + HANDSHAKE)
        [connection] = self.world.factory.connections
        self.assertEqual(connection.peer, PROXY)
        client.leave()
        self.assertEqual(self.limits.inside, 0)

    def test_proxies_count_in_the_total(self) -> None:
        found = [self.come(IPv4Address("TCP", PROXY, port)) is not None for port in range(11)]
        self.assertEqual(found, [True] * 10 + [False])

    def test_no_header(self) -> None:
        client = self.through_proxy(HANDSHAKE)
        self.assertTrue(client.transport.aborted)
        client.leave()
        self.assertEqual((self.limits.inside, self.limits.refused), (0, {"proxy_header": 1}))

    def test_a_header_that_does_not_come(self) -> None:
        client = self.through_proxy(b"PROXY ")
        in_time = self.through_proxy(b"PROXY ", b"UNKNOWN\r\n")
        self.world.clock.advance(PROXY_HEADER_SECONDS - 1)
        self.assertFalse(client.transport.aborted)
        self.world.clock.advance(1)
        self.assertEqual((client.transport.aborted, in_time.transport.aborted), (True, False))
        client.leave()
        in_time.leave()
        self.assertEqual(self.limits.inside, 0)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_others_are_not_believed(self) -> None:
        client = self.come(IPv4Address("TCP", "192.0.2.1", 1))
        assert client is not None
        client.feed(version_1("192.0.2.7"))
        self.assertTrue(client.transport.aborted)
        self.assertEqual([one.peer for one in self.world.factory.connections], ["192.0.2.1"])
