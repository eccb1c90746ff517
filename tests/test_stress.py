"""``tools/stress``: small runs against this project's own server, and against servers with a fault that it has to
find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from stressing.cli import STRANGERS  # noqa: E402
from stressing.stage import PLACES  # noqa: E402

BROKEN = """
import sys
sys.path[:0] = [{tools!r}]
from benchmark import peers
from stressing import cli, stage
from pathlib import Path
ours = peers.KNOWN[peers.OURS]()
program = Path({program!r})

def command(directory, port):
    twistd, *options = ours.command(directory, port)
    return [sys.executable, str(program), *options]

peers.KNOWN[peers.OURS] = lambda: peers.Peer(ours.name, ours.version, command, ours.environment)
stage.SETTLING_S = 3
sys.exit(cli.main({options!r}))
"""
"""The tool with these options, and with this program in place of the server's."""

KEEPS_PLACES = """
from rtmp_twisted.rtmp.limits import ConnectionLimits
ConnectionLimits.leave = lambda self, address: None
from twisted.scripts.twistd import run
run()
"""

MISSES_ENDS = """
from rtmp_twisted.rtmp.protocol import RTMPProtocol
lost = RTMPProtocol.connectionLost

def connectionLost(self, reason):
    if self.connection.sink is None:
        lost(self, reason)

RTMPProtocol.connectionLost = connectionLost
from twisted.scripts.twistd import run
run()
"""


BLOCKS = """
import time
from twisted.internet import reactor, task
reactor.callWhenRunning(task.LoopingCall(time.sleep, 0.3).start, 1.0)
from twisted.scripts.twistd import run
run()
"""

KEEPS_MEMORY = """
from rtmp_twisted.rtmp.protocol import RTMPProtocol
made, kept = RTMPProtocol.connectionMade, []

def connectionMade(self):
    kept.append(b"x" * 2_000_000)
    made(self)

RTMPProtocol.connectionMade = connectionMade
from twisted.scripts.twistd import run
run()
"""


class StressTests(SynchronousTestCase):
    def run_stress(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)

    def test_nobody_notices(self) -> None:
        done = self.run_stress(str(TOOLS / "stress"), "--connections", "200")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"200 strangers ({len(STRANGERS)} kinds)", done.stdout)

    def broken(self, server: str, *options: str) -> str:
        program = Path(self.mktemp()).absolute()
        program.write_text(server)
        done = self.run_stress("-c", BROKEN.format(tools=str(TOOLS), program=str(program), options=list(options)))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        return done.stdout

    def test_places_that_are_not_given_back(self) -> None:
        self.assertIn(f"places left of {PLACES}", self.broken(KEEPS_PLACES, "--connections", "50"))

    def test_ends_that_are_not_seen(self) -> None:
        self.assertRegex(self.broken(MISSES_ENDS, "--connections", "50"), r"before: .*\(.*\), after: ")

    def attacked(self, output: str) -> dict[str, str]:
        """The cells of the one row of the table."""
        header, _, row = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("|")]
        return dict(zip(header, row, strict=True))

    def test_an_attack(self) -> None:
        done = self.run_stress(str(TOOLS / "stress"), "--attack", "key-guessing", "--seconds", "1")
        self.assertIn(done.returncode, (0, 1), done.stdout + done.stderr)
        found = self.attacked(done.stdout)
        self.assertEqual(found["attacker"], "key-guessing")
        self.assertNotEqual(found["/healthz, ms"], "not answered")

    def test_an_attack_over_http(self) -> None:
        done = self.run_stress(str(TOOLS / "stress"), "--attack", "half-requests", "--seconds", "1")
        self.assertIn(done.returncode, (0, 1), done.stdout + done.stderr)
        self.assertNotEqual(self.attacked(done.stdout)["/healthz, ms"], "not answered")

    def test_others_have_to_wait(self) -> None:
        output = self.broken(BLOCKS, "--attack", "nobody", "--seconds", "2")
        self.assertIn("nobody, begun 4 times: WRONG", output)
        self.assertGreater(float(self.attacked(output)["others waited, ms"]), 200)

    def test_memory_is_left(self) -> None:
        output = self.broken(KEEPS_MEMORY, "--attack", "key-guessing", "--seconds", "1")
        found = self.attacked(output)
        self.assertGreater(float(found["after all have gone"]), float(found["memory before, MB"]) + 16)
