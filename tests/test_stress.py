"""``tools/stress``: a small run of it, against this project's own server; and that it sees what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from stressing.cli import PLACES  # noqa: E402
from stressing.strangers import STRANGERS  # noqa: E402

BROKEN = """
import sys
sys.path[:0] = [{tools!r}]
from benchmark import peers
from stressing import cli, strangers
from pathlib import Path
ours = peers.KNOWN[peers.OURS]()
program = Path({program!r})

def command(directory, port):
    twistd, *options = ours.command(directory, port)
    return [sys.executable, str(program), *options]

peers.KNOWN[peers.OURS] = lambda: peers.Peer(ours.name, ours.version, command, ours.environment)
cli.SETTLING_S = 3
sys.exit(cli.main(["--connections", "50"]))
"""

FORGETFUL = """
from rtmp_twisted.rtmp.limits import ConnectionLimits
ConnectionLimits.leave = lambda self, address: None
from twisted.scripts.twistd import run
run()
"""

DEAF = """
from rtmp_twisted.rtmp.protocol import RTMPProtocol
lost = RTMPProtocol.connectionLost

def connectionLost(self, reason):
    if self.client._session.publication is None:
        lost(self, reason)

RTMPProtocol.connectionLost = connectionLost
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

    def broken(self, server: str) -> str:
        program = Path(self.mktemp()).absolute()
        program.write_text(server)
        done = self.run_stress("-c", BROKEN.format(tools=str(TOOLS), program=str(program)))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        return done.stdout

    def test_places_that_are_not_given_back(self) -> None:
        self.assertIn(f"places left of {PLACES}", self.broken(FORGETFUL))

    def test_ends_that_are_not_seen(self) -> None:
        self.assertRegex(self.broken(DEAF), r"before: .*\(.*\), after: ")
