"""Variables that are probably meant as settings, but name none: one warning for each. Used by settings.py.
tap.py uses `nearest` for options.

In ``.env`` that is every variable without a meaning. The environment holds much that other programs put there, so it
is only a variable that begins as several settings do (``REDIS_PASS``), or that differs from one setting by a letter or
two (``CALBACK_URL``). Warnings never show a value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

WELL_KNOWN: Final = frozenset(
    {
        # Proxies and certificates, for every program.
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR"),
        # Platforms and base images set these, and applications beside this server read them.
        *("REDIS_URL", "REDIS_TLS_URL", "REDIS_URI", "REDIS_VERSION", "REDIS_DB", "REDIS_DATABASE", "REDIS_PREFIX"),
        *("LOG_LEVEL", "LOG_FORMAT", "LOG_FILE", "LOG_DIR", "LOG_PATH", "LOG_CHANNEL"),
        *("HTTP_HOST", "HTTPS_PORT", "HTTPS_HOST", "WEB_CONCURRENCY", "CLUSTER_NAME"),
        # One letter or two from a setting, but of another program.
        *("SSH_PORT", "SSH_KEY", "RTSP_PORT", "RTSP_HOST", "INTERNAL_PORT", "INTERNAL_SSL"),
        # How this server is built, and what systemd passes with a socket.
        *("RTMP_TWISTED_COMPILE", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
        # In a .env file that serves other programs as well.
        *("PATH", "HOME", "TZ", "LANG", "LC_ALL", "PORT", "DEBUG"),
    }
)
"""Variables that are never warned of, in capitals."""

WELL_KNOWN_PREFIXES: Final = ("COMPOSE_", "DOCKER_", "PYTHON", "OTEL_")
"""The same for all variables that begin so."""

COMMON_WORDS: Final = frozenset({"EXTERNAL", "ID", "MAX", "PUBLISH"})
"""First words of settings that other programs use too: such a beginning alone is no reason for a warning."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")
_LINK: Final = re.compile(r"(?:tcp|udp|sctp)://.*:([0-9]+)", re.IGNORECASE)
_INJECTED: Final = re.compile(
    r".+_SERVICE_HOST|.+_SERVICE_PORT(?:_.+)?|.+_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?"
)


def is_link(name: str, value: str, environ: Mapping[str, str]) -> bool:
    """Whether a container engine made this variable, not a person.

    For a container or service that is called ``redis``, Docker's links and Kubernetes set
    ``REDIS_PORT=tcp://10.0.0.1:6379``, and beside it ``REDIS_PORT_6379_TCP`` with the same value.
    """
    match = _LINK.fullmatch(value)
    return match is not None and environ.get(f"{name}_{match[1]}_{value.partition(':')[0].upper()}") == value


def in_environment(environ: Mapping[str, str], settings: Collection[str]) -> Iterator[str]:
    """The warnings of the environment. ``settings`` are the names of all settings."""
    prefixes = _prefixes(settings)
    links = {name.removesuffix("_PORT") for name, value in environ.items() if is_link(name, value, environ)}
    for name, value in environ.items():
        if _is_unsuspicious(name, settings) or _INJECTED.fullmatch(name) or is_link(name, value, environ):
            continue
        if any(name == f"{link}_NAME" or name.startswith(f"{link}_ENV_") for link in links):
            continue  # Docker's links set these as well
        similar = nearest(name.upper(), settings)
        if similar or name.upper().startswith(prefixes):
            yield _warning(name, similar)


def in_dotenv(
    values: Mapping[str, tuple[str, int]], referenced: Collection[str], settings: Collection[str]
) -> Iterator[str]:
    """The warnings of a `Dotenv`. A variable that is ``referenced`` by another line has its meaning there."""
    for name, (_, number) in values.items():
        if name not in referenced and not _is_unsuspicious(name, settings):
            yield _warning(f"{name} (.env, line {number})", nearest(name.upper(), settings))


def _warning(name: str, similar: str | None) -> str:
    return f"{name}: did you mean {similar}?" if similar else f"{name}: there is no such setting"


def _is_unsuspicious(name: str, settings: Collection[str]) -> bool:
    upper = name.upper()
    known = name in settings or upper in WELL_KNOWN or upper.startswith(WELL_KNOWN_PREFIXES)
    return known or _NAME.fullmatch(name) is None


def _prefixes(settings: Collection[str]) -> tuple[str, ...]:
    """The first words that two or more settings have in common, with the underscore."""
    words = Counter(name.partition("_")[0] for name in settings if "_" in name)
    return tuple(f"{word}_" for word, count in words.items() if count > 1 and word not in COMMON_WORDS)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the one of the ``known`` names that ``name`` is probably a misspelling of."""
    found = [(distance, one) for one in known if (distance := _distance(name, one, _tolerance(one))) is not None]
    return min(found)[1] if found else None


def _tolerance(setting: str) -> int:
    """How many letters may be wrong. Few in a short name, since short names are near to many words."""
    return 0 if len(setting) < 6 else 1 if len(setting) < 12 else 2


def _distance(one: str, other: str, most: int) -> int | None:
    """How many letters are missing, added, wrong or swapped with their neighbour; None if more than ``most``."""
    if abs(len(one) - len(other)) > most:
        return None
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = above
    return row[-1] if row[-1] <= most else None
