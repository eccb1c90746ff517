"""``python -m tests.interop``: runs all interop tests, and writes the tables of docs/interop.md.

Its exit status is that of the tests, and 1 where a late player had to wait for its picture longer than a second. A
cell whose test failed is a dash.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.interop import table
from tests.support.programs import ROOT

PAGE = ROOT / "docs/interop.md"
MODULES = [f"tests.interop.{name}" for name in ("test_programs", "test_rtmps", "test_codecs", "heavy")]


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory, "results")
        results.touch()
        run = subprocess.run(
            [sys.executable, "-m", "twisted.trial", f"--temp-directory={directory}/trial", *MODULES],
            env={**os.environ, "INTEROP_RESULTS": str(results), "PYTHONPATH": str(ROOT)},
        )
        found = [json.loads(line) for line in results.read_text().splitlines()]
    page = PAGE.read_text()
    written = f"<!-- tables -->\n{table.tables(found)}<!-- /tables -->"
    PAGE.write_text(re.sub(r"<!-- tables -->.*<!-- /tables -->", lambda _: written, page, flags=re.DOTALL))
    return run.returncode or any(table.late(result) for result in found)


sys.exit(main())
