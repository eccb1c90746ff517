"""Every way in which a publish can end: the authority is told once, also if it had not answered by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire import messages
from tests.support.memory import Client, World
from tests.support.rtmp_client import avc

MAX_RATE = 1000.0
"""Bytes per second that a publisher may send in `send_too_fast`."""


def close_stream(world: World, client: Client) -> None:
    client.call("closeStream", None, stream_id=1)


def delete_stream(world: World, client: Client) -> None:
    client.call("deleteStream", None, 1.0)


def leave(world: World, client: Client) -> None:
    client.leave()


def send_garbage(world: World, client: Client) -> None:
    client.feed(b"\xff" * 100)


def connect_again(world: World, client: Client) -> None:
    client.call("connect", {"app": "another"})


def send_too_many_commands(world: World, client: Client) -> None:
    for _ in range(200):
        client.call("_checkbw", transaction=0)


def read_nothing(world: World, client: Client) -> None:
    """While it goes on sending."""
    producer: Any = client.transport.producer
    producer.pauseProducing()
    for _ in range(61):
        client.send(messages.acknowledgement(1))
        world.pass_time(1)


def fall_silent(world: World, client: Client) -> None:
    world.pass_time(61)


def send_too_fast(world: World, client: Client) -> None:
    """Faster than `MAX_RATE`."""
    client.send(messages.set_chunk_size(65536))
    client.chunk_size = 65536
    client.send(avc(0, True, bytes(50_000)))
    world.pass_time(1)


def kill_any(world: World, client: Client) -> None:
    """As kill-session, STREAM-KILL with `*` and the operators' HTTP do."""
    world.broker.kill("channel", None, "killed")


def kill_all(world: World, client: Client) -> None:
    """As the loss of the coordinator does."""
    world.broker.kill_all("lost")


def stop_the_server(world: World, client: Client) -> None:
    world.factory.finish_all("the server is stopping")
    world.broker.stopService()


WAYS: list[Callable[[World, Client], None]] = [
    close_stream,
    delete_stream,
    leave,
    send_garbage,
    connect_again,
    send_too_many_commands,
    read_nothing,
    fall_silent,
    send_too_fast,
    kill_any,
    kill_all,
    stop_the_server,
]


def kill_by_id(world: World, client: Client) -> None:
    """As close-stream and STREAM-KILL do; there is no id before the answer."""
    world.broker.kill("channel", "the id", "killed")


def take_over(world: World, client: Client) -> None:
    """The other publisher never gets its answer."""
    other = world.connect().open()
    other.publish()
    world.pass_time(4)


START = ("start", "channel", "key", "192.0.2.1")
END = ("end", "channel", "key", "the id", "192.0.2.1")


class EveryEndTests(SynchronousTestCase):
    def publish(self, way: Callable[[World, Client], None]) -> tuple[World, Client]:
        """Returns a publisher that waits for its answer."""
        world = World(ask=True)
        if way is send_too_fast:
            world.factory.options = evolve(world.factory.options, max_publish_rate=MAX_RATE)
        client = world.connect().open()
        client.publish()
        return world, client

    def test_on_air(self) -> None:
        for way in [*WAYS, kill_by_id, take_over]:
            world, client = self.publish(way)
            world.authority.accept("the id")
            self.assertEqual(world.authority.events, [START], way.__name__)
            way(world, client)
            expected = [START, END, START] if way is take_over else [START, END]
            self.assertEqual(world.authority.events, expected, way.__name__)
            world.broker.kill("channel", "the id", "killed")
            if way is not leave:
                client.leave()
            self.assertEqual(world.authority.events, expected, way.__name__)

    def test_accepted_after_it(self) -> None:
        for way in WAYS:
            world, client = self.publish(way)
            way(world, client)
            self.assertEqual(world.authority.events, [START], way.__name__)
            world.authority.accept("the id")
            self.assertEqual(world.authority.events, [START, END], way.__name__)
            if way is not leave:
                client.leave()
            self.assertEqual(world.authority.events, [START, END], way.__name__)

    def test_refused_after_it(self) -> None:
        for way in WAYS:
            world, client = self.publish(way)
            way(world, client)
            world.authority.refuse()
            if way is not leave:
                client.leave()
            self.assertNotIn("end", [event[0] for event in world.authority.events], way.__name__)
