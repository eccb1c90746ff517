"""Coverage-guided fuzzing of one target: python -m tests.fuzz TARGET SECONDS. See tools/fuzz and docs/fuzzing.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rtmp_twisted"]):
    from tests.fuzz.targets import LONGEST, TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS or not sys.argv[2].isdigit():
        raise SystemExit(f"usage: ./tools/fuzz TARGET SECONDS, where TARGET is one of {' '.join(TARGETS)}")
    target, seconds = sys.argv[1:]
    seeds = CORPUS / target
    seeds.mkdir(parents=True, exist_ok=True)
    # The fuzzer keeps interesting inputs in the first directory. Findings go to the corpus, which the tests replay.
    found = Path(tempfile.gettempdir()) / f"rtmp-twisted-fuzz-{target}"
    found.mkdir(exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={seeds}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(seeds)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
