"""The command ``rtmp-twisted``, also ``python -m rtmp_twisted``: runs the server without a word about twistd.

It is twistd that runs the server. Those who want twistd's own options (``--logfile``, ``--uid``, ``--syslog``) call
``twistd rtmp`` instead.
"""

from __future__ import annotations

import sys
from typing import Final

from rtmp_twisted._version import __version__

USAGE: Final = """\
Usage: rtmp-twisted COMMAND [options]

    serve [options]    runs the server in the foreground
    check [options]    says what would run with these options, or what is wrong with them
    drain [options]    has a server that runs here send its clients to another one
    version            says which version this is

rtmp-twisted serve --help lists the options of serve and check. Each is also an environment variable."""


def main() -> None:
    """Does what the command line says. Ends the process, with status 1 and one line if the command line is wrong."""
    command, *options = sys.argv[1:] or ["--help"]
    match command:
        case "serve":
            _twistd(options)
        case "check":
            _twistd(["--check", *options])
        case "drain":
            from rtmp_twisted import drain

            drain.main(options)
        case "version" | "--version":
            print(f"rtmp-twisted {__version__}")
        case "help" | "--help" | "-h":
            print(USAGE)
        case _ if command.startswith("-"):
            raise SystemExit(f"{command}: the command comes first, as in: rtmp-twisted serve {command}")
        case _:
            raise SystemExit(f"{command}: there is no such command; the commands are serve, check, drain and version")


def _twistd(options: list[str]) -> None:
    from twisted.scripts.twistd import run

    # No PID file: it would keep a second server from starting in the same directory.
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "rtmp", *options]
    run()


if __name__ == "__main__":
    main()
