"""A cluster that suffers: python -m tests.cluster --seconds 120. See tools/cluster."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.trial.unittest import SkipTest

from tests.cluster.chaos import SABOTAGES, run
from tests.cluster.network import FAULTS, measure
from tests.platform.cleanups import Cleanups
from tests.support.fakes import reactor


async def watched(options: argparse.Namespace, cleanups: Cleanups, verdict: list[int]) -> None:
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(cleanups.run()))
    if options.namespaces:
        try:
            costs = await measure(cleanups, options.fault or list(FAULTS), say)
        except SkipTest as impossible:
            print(f"cluster: {impossible}")
            return
        problems = [f"{cost.fault}: {problem}" for cost in costs for problem in cost.problems]
        for problem in problems:
            print(f"  WRONG: {problem}")
        verdict.append(1 if problems else 0)
        return
    outcome = await run(cleanups, options.seconds, options.seed, say, options.sabotage)
    acts = ", ".join(f"{name} {number}" for name, number in sorted(outcome.acts.items()))
    print(f"{outcome.frames} frames seen, {outcome.starts} accepted starts; {acts}")
    print(f"encoders were on air again after {max(outcome.waits, default=0):.1f} s at most")
    for problem in outcome.problems[:20]:
        print(f"  WRONG: {problem}")
    print(f"WRONG: {len(outcome.problems)} problems" if outcome.problems else "right")
    verdict.append(1 if outcome.problems else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="cluster",
        description="Runs three nodes with Redis and a callback here, kills, pauses and empties each of them,"
        " and checks every frame that every viewer sees, and that each accepted start has one end: docs/scaling.md.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=120, help="duration of the faults, about (default: %(default)s)")
    add(
        "--namespaces",
        action="store_true",
        help="instead: nodes in network namespaces, with cables that are cut between them, and what each fault costs",
    )
    add("--fault", choices=list(FAULTS), action="append", help="with --namespaces: this one only (default: each)")
    add("--seed", type=int, default=int(time.time()), help="seed of the random choices (default: the time)")
    wrong = "; ".join(f"{word}: {what}" for word, what in SABOTAGES.items())
    add("--sabotage", choices=list(SABOTAGES), default="", help=f"what nodes do wrong, which must be found. {wrong}")
    options = parser.parse_args()
    if not options.namespaces:
        print(f"seed {options.seed}")
    verdict: list[int] = []
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory, contextlib.suppress(SystemExit):
        react(lambda _: Deferred.fromCoroutine(watched(options, Cleanups(directory), verdict)))
    sys.exit(verdict[0] if verdict else "cluster: the run was not completed")


main()
