"""Processes: starts a server on its core, stops it, and reads from /proc what it has used."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
PROC = Path("/proc")


class BenchError(Exception):
    """A problem that the user can solve; the text says what it is."""


def free_port(host: str, following: int = 0) -> int:
    """A port that is free, and so are as many behind it."""
    while True:
        with ExitStack() as stack, suppress(OSError):
            probes = [stack.enter_context(socket.socket()) for _ in range(1 + following)]
            probes[0].bind((host, 0))
            port = int(probes[0].getsockname()[1])
            for number, probe in enumerate(probes[1:], 1):
                probe.bind((host, port + number))
            return port


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Makes a certificate for localhost and its key. Raises BenchError where there is no openssl."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(["openssl", "req", *kind.split(), *files], check=True, capture_output=True)
    except FileNotFoundError as error:
        raise BenchError("there is no openssl on this machine") from error
    return certificate, key


def raise_file_limit(needed: int) -> None:
    """Lets this process and its children open ``needed`` files. Raises BenchError where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    except (ValueError, OSError) as error:
        raise BenchError(
            f"{needed} open files are needed and {hard} are allowed: raise the limit (ulimit -n {needed}) "
            "or leave the largest scenarios out (--scenario)"
        ) from error


@dataclass
class Server:
    """A server's process and its children, between ``start`` and ``stop``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], directory: Path, environment: dict[str, str], cores: set[int]
    ) -> Server:
        """Starts ``command`` in ``directory``, on ``cores``. Raises BenchError where there is no such program."""
        log = directory / "output.log"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=partial(os.sched_setaffinity, 0, cores),
                )
        except OSError as error:
            raise BenchError(f"{name} cannot be started: {error}") from error
        return cls(name, process, log)

    def wait_until_listening(self, host: str, port: int) -> None:
        """Returns when the port takes connections. Raises BenchError with the end of the server's output if not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    return
            time.sleep(0.05)
        status = self.process.poll()
        what = "does not listen" if status is None else f"ended with status {status}"
        tail = self.log.read_text(errors="replace")[-2000:].strip()
        raise BenchError(f"{self.name} {what} on port {port}. It was started as: {self.process.args!r}\n{tail}")

    def stop(self) -> None:
        """Ends the server, and then all that is left of its process group."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@dataclass
class Usage:
    """What a tree of processes has used so far: CPU time, and memory in bytes.

    ``shared`` is memory that no process of it maps but that it holds all the same (memfd files).
    """

    cpu_ns: int = 0
    resident: int = 0
    shared: int = 0
    _files: set[tuple[int, int]] = field(default_factory=set, repr=False)

    @classmethod
    def of(cls, pid: int, with_memory: bool = False) -> Usage:
        usage = cls()
        usage._add(pid, with_memory)
        return usage

    def _add(self, pid: int, with_memory: bool) -> None:
        for one in tree(pid):
            self.cpu_ns += sum(map(_task_cpu_ns, _entries(PROC / str(one) / "task")))
            if with_memory:
                self._add_memory(PROC / str(one))

    def _add_memory(self, root: Path) -> None:
        status = dict(line.split(":", 1) for line in _read(root / "status").splitlines() if ":" in line)
        resident, mapped = (int(status.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "RssShmem"))
        held = 0
        for entry in _entries(root / "fd"):
            try:
                if os.readlink(entry).startswith("/memfd:"):
                    facts = entry.stat()
                    if (facts.st_dev, facts.st_ino) not in self._files:
                        self._files.add((facts.st_dev, facts.st_ino))
                        held += facts.st_blocks * 512
            except OSError:
                continue
        self.resident += resident
        # A memfd that is mapped as well counts in the resident memory already.
        self.shared += max(0, held - mapped)


def tree(pid: int) -> Iterator[int]:
    """The process and its children, and theirs."""
    yield pid
    for task in _entries(PROC / str(pid) / "task"):
        for child in _read(task / "children").split():
            yield from tree(int(child))


def highest_memory(pid: int) -> int:
    """Bytes that the process and its children have had resident, each at its highest, together."""
    lines = [line for one in tree(pid) for line in _read(PROC / str(one) / "status").splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def machine_busy_ns() -> int:
    """CPU time of all cores that was not idle, since the machine started."""
    fields = [int(word) for word in _read(PROC / "stat").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _task_cpu_ns(task: Path) -> int:
    """A thread's CPU time: to the nanosecond where the kernel tells, else to the clock tick."""
    if words := _read(task / "schedstat").split():
        return int(words[0])
    words = _read(task / "stat").rpartition(")")[2].split()
    return sum(map(int, words[11:13])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK") if words else 0


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
