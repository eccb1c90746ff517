"""The floor: what it costs to hand the same bytes to the same sockets, and nothing else.

``PYTHONPATH=tools python3 -m benchmark.floor PLAYERS KBPS MESSAGES``: a loop that sends MESSAGES messages' worth of a
stream of KBPS kbit/s to each of PLAYERS TCP connections over loopback, as often as that makes, for some seconds. No
server that writes to one socket at a time can cost less than this. A process on another core reads.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from .frames import AUDIO_RATE, VIDEO_RATE
from .process import raise_file_limit

SECONDS = 8.0
MESSAGES_PER_SECOND = VIDEO_RATE + AUDIO_RATE


def main() -> None:
    players, kbps, messages = (int(word) for word in sys.argv[1:4])
    raise_file_limit(2 * players + 100)
    cores = sorted(os.sched_getaffinity(0))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as port:
        reader = os.fork()
        if reader == 0:
            os.sched_setaffinity(0, {cores[-1]})
            read([socket.create_connection(port.getsockname()) for _ in range(players)])
            os._exit(0)
        os.sched_setaffinity(0, {cores[0]})
        sockets = [port.accept()[0] for _ in range(players)]
    cpu, seconds, short = send(sockets, kbps * 125 * messages // MESSAGES_PER_SECOND, messages / MESSAGES_PER_SECOND)
    for one in sockets:
        one.close()
    os.waitpid(reader, 0)
    what = f"{players} players, {kbps} kbit/s, {messages} messages a write"
    print(f"{what}: {cpu / seconds:.1%} of a core, {short} short writes")


def send(sockets: list[socket.socket], size: int, interval: float) -> tuple[float, float, int]:
    """CPU time and time in seconds, and how many writes did not fit."""
    data = bytes(size)
    sends = [one.send for one in sockets]
    for one in sockets:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    short = 0
    began, cpu = time.monotonic(), time.process_time()
    due = began
    while due < began + SECONDS:
        time.sleep(max(0.0, due - time.monotonic()))
        due += interval
        for offer in sends:
            try:
                short += offer(data) != size
            except BlockingIOError:
                short += 1
    return time.process_time() - cpu, time.monotonic() - began, short


def read(sockets: list[socket.socket]) -> None:
    """Until all are closed."""
    buffer = bytearray(1 << 20)
    watched = select.epoll()
    by_file = {one.fileno(): one for one in sockets}
    for file in by_file:
        watched.register(file, select.EPOLLIN)
    while by_file:
        for file, _ in watched.poll():
            if not by_file[file].recv_into(buffer):
                watched.unregister(file)
                by_file.pop(file).close()


if __name__ == "__main__":
    main()
