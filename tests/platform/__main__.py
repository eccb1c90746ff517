"""The scripted run of the whole platform: python -m tests.platform --seconds 180. See tools/platform."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.platform.cleanups import Cleanups
from tests.platform.run import run
from tests.support.fakes import reactor


async def watched(options: argparse.Namespace, cleanups: Cleanups, verdict: list[int]) -> None:
    """Runs it, and prints a line for each act. Appends the exit status to ``verdict``."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    # If a signal ends this, nothing that was started stays behind either.
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(cleanups.run()))
    outcomes = await run(
        cleanups, options.seconds, options.seed, options.publishers, options.ffmpegs, say, options.workers
    )
    print(*outcomes, sep="\n")
    wrong = sum(len(outcome.problems) for outcome in outcomes)
    print(f"WRONG: {wrong} problems" if wrong else "right: no end is missing, none came twice, every id is right")
    verdict.append(1 if wrong else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="platform",
        description="Runs a whole platform on this machine, with kills and restarts of each party, and checks that "
        "the callback and the coordinator heard one end of each publish that they accepted: docs/platform.md.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=180, help="total duration (default: %(default)s)")
    add("--publishers", type=int, default=24, help="simple publishers at a time (default: %(default)s)")
    add("--ffmpegs", type=int, default=2, help="ffmpeg publishers at a time (default: %(default)s)")
    add("--workers", type=int, default=1, help="workers of the server; some of them are killed (default: %(default)s)")
    add("--seed", type=int, default=int(time.time()), help="seed of the random choices (default: the time)")
    options = parser.parse_args()
    if options.publishers < 4 or options.ffmpegs < 0:
        parser.error("at least 4 simple publishers are needed: some are killed while others are spared")
    print(f"seed {options.seed}")
    verdict: list[int] = []
    with tempfile.TemporaryDirectory(prefix="platform-") as directory, contextlib.suppress(SystemExit):
        react(lambda _: Deferred.fromCoroutine(watched(options, Cleanups(directory), verdict)))
    sys.exit(verdict[0] if verdict else "platform: the run was not completed")


main()
