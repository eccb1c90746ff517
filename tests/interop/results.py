"""Where tests leave what belongs into the table: a file of JSON lines that INTEROP_RESULTS names, or nowhere."""

from __future__ import annotations

import json
import os
from typing import Any


def record(**result: Any) -> None:
    """One cell's findings."""
    name = os.environ.get("INTEROP_RESULTS")
    if name:
        with open(name, "a") as file:
            file.write(json.dumps(result) + "\n")
