"""``rtmp-twisted drain``: has the server on this machine, or in this container, send its clients away, and waits until
they are gone.

It asks the server's HTTP for operators. The settings are read from the environment and ``.env``, as the server does it;
settings that the server got as options are not known here. This is a separate program with blocking I/O, without
Twisted.
"""

from __future__ import annotations

import json
import os
import time
from argparse import ArgumentParser
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from rtmp_twisted.settings import Settings, SettingsError

SECONDS: Final = 5.0
"""Time limit for an answer."""

_HERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(settings: Settings, method: str) -> dict[str, Any]:
    """Asks the server to drain (POST), not to (DELETE), or how it stands (GET). Raises OSError or HTTPException where
    there is no answer, and ValueError where it is another one than expected."""
    host = _HERE.get(settings.http_bind_address, settings.http_bind_address)
    connection = HTTPConnection(host, settings.http_port, timeout=SECONDS)
    try:
        headers = {"Authorization": f"Bearer {settings.http_token}"} if settings.http_token else {}
        connection.request(method, "/api/v1/drain", headers=headers)
        answer = connection.getresponse()
        said: dict[str, Any] = json.loads(answer.read(4096))
        if answer.status != 200:
            raise ValueError(said.get("error", answer.status))
        return said
    finally:
        connection.close()


def main(arguments: list[str]) -> None:
    """Ends the process, with status 1 and one line if it could not be done."""
    parser = ArgumentParser(
        "rtmp-twisted drain", description=(__doc__ or "").partition(": ")[2].partition(".")[0] + "."
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait until all are gone"
    )
    parser.add_argument("--end", action="store_true", help="let clients come again")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.load(os.environ, {}, Path(".env"))
        if not settings.http_port:
            raise SystemExit("HTTP_PORT is needed for this: the server's HTTP for operators is asked")
        deadline = time.monotonic() + options.wait
        said = ask(settings, "DELETE" if options.end else "POST")
        while said["draining"] and said["publishers"] + said["players"] and time.monotonic() < deadline:
            time.sleep(0.5)
            said = ask(settings, "GET")
    except SettingsError as error:
        raise SystemExit("\n".join(error.lines)) from None
    except (OSError, HTTPException, ValueError) as error:
        raise SystemExit(f"the server does not do it: {error}") from None
    what = "clients are sent away" if said["draining"] else "clients may come"
    print(f"{what}; publishers: {said['publishers']}, players: {said['players']}")
