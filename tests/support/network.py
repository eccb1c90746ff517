"""Networks between programs: namespaces of the kernel, joined by cables that delay, lose, and can be cut.

A cable is a pair of TUN devices, one in each namespace, between which this process carries the packets. So what is lost
is decided here, packet by packet, and no kernel module for it is needed (tc's netem is often missing).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.trial.unittest import SkipTest, TestCase

from tests.support.fakes import reactor, until, within
from tests.support.rtmp_client import RTMPClient

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")


class Namespace:
    """A network of its own, with a loopback device. Skips the test where the system forbids that."""

    _made = 0

    def __init__(self, case: TestCase) -> None:
        if os.geteuid() != 0:
            raise SkipTest("network namespaces can only be made by root")
        if shutil.which("ip") is None:
            raise AssertionError("ip (Debian package iproute2) is not installed")
        self._case = case
        Namespace._made += 1
        self.name = f"rtmp-test-{os.getpid()}-{Namespace._made}"
        added = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True, check=False)
        if added.returncode:
            raise SkipTest(f"this system lets nobody make a network namespace: {added.stderr.strip()}")
        case.addCleanup(ip, "netns", "delete", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    @property
    def command(self) -> tuple[str, ...]:
        """What runs a program in it."""
        return "ip", "netns", "exec", self.name

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is opened in between is in the namespace, and stays there."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    async def client(self, address: str, port: int) -> RTMPClient:
        """A client in the namespace that has made the handshake."""
        with self.entered():  # the socket is made at once
            connecting = connectProtocol(TCP4ClientEndpoint(reactor, address, port), RTMPClient())
        protocol: RTMPClient = await within(connecting)
        self._case.addCleanup(self._end, protocol)
        await within(protocol.ready)
        return protocol

    async def _end(self, protocol: RTMPClient) -> None:
        if not protocol.closed:
            protocol.transport.abortConnection()
            await within(protocol.lost)


class Cable:
    """Joins two namespaces as 10.93.``number``.1 and .2. ``delay`` in seconds, each way; of each ``lose`` packets that
    carry data, one is lost (0: none)."""

    def __init__(
        self, case: TestCase, near: Namespace, far: Namespace, number: int, delay: float = 0.0, lose: int = 0
    ) -> None:
        self.near, self.far = f"10.93.{number}.1", f"10.93.{number}.2"
        self.cut = False
        self.lost = 0
        """Packets."""
        self._delay = delay
        self._lose = lose
        self._carried = 0
        self._on_the_way: deque[tuple[_End, bytes]] = deque()
        one, other = _End(self, near, f"cable{number}", self.near), _End(self, far, f"cable{number}", self.far)
        one.other, other.other = other, one
        for end in one, other:
            reactor.addReader(end)
            case.addCleanup(end.close)
        case.addCleanup(self._close)

    def carry(self, packet: bytes, to: _End) -> None:
        if self.cut:
            return
        if len(packet) > 200 and self._lose:
            self._carried += 1
            if self._carried % self._lose == 0:
                self.lost += 1
                return
        if self._delay:
            self._on_the_way.append((to, packet))
            reactor.callLater(self._delay, self._arrive)
        else:
            to.write(packet)

    def _arrive(self) -> None:
        to, packet = self._on_the_way.popleft()
        to.write(packet)

    async def _close(self) -> None:
        self.cut = True
        await until(lambda: not self._on_the_way, "the last packets")


class _End:
    """One end of a cable: a TUN device."""

    other: _End

    def __init__(self, cable: Cable, namespace: Namespace, device: str, address: str) -> None:
        self._cable = cable
        with namespace.entered():
            try:
                self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
            except OSError as error:
                raise SkipTest(f"this system lets nobody make a TUN device: {error}") from None
        ip("-n", namespace.name, "address", "add", f"{address}/24", "dev", device)
        ip("-n", namespace.name, "link", "set", device, "up")

    def fileno(self) -> int:
        return self._file

    def logPrefix(self) -> str:
        return "cable"

    def doRead(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._cable.carry(os.read(self._file, 65536), self.other)

    def write(self, packet: bytes) -> None:
        if self._file >= 0:
            with suppress(BlockingIOError):  # a full device loses packets, as networks do
                os.write(self._file, packet)

    def connectionLost(self, reason: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            reactor.removeReader(self)
            os.close(self._file)
            self._file = -1


def _enter(file: int) -> None:
    if _libc.setns(file, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
