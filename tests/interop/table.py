"""The interop table: what the tests found, as the Markdown of docs/interop.md. Used by __main__ only."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import av

from tests.interop import programs
from tests.interop.test_codecs import SOUNDS
from tests.support.clips import CURRENT_FFMPEG

PUBLISHERS = [
    *(programs.DEBIAN_FFMPEG, programs.CURRENT, programs.PYAV, programs.RTMP2SINK, programs.RTMPSINK, programs.VLC),
]
PLAYERS = [
    *(programs.DEBIAN_FFMPEG_PLAYER, programs.CURRENT_PLAYER, programs.PYAV_PLAYER, programs.RTMPDUMP),
    *(programs.RTMP2SRC, programs.RTMPSRC, programs.VLC_PLAYER),
]
OBS = "OBS Studio"
PICTURES = ("H.264", "HEVC", "AV1", "VP9")
SCHEMES = ("rtmp", "rtmps")

_VERSIONS = {
    "Debian's ffmpeg": (["ffmpeg", "-version"], r"version (\S+)"),
    "current ffmpeg": ([CURRENT_FFMPEG, "-version"], r"version (\S+)"),
    "GStreamer": (["gst-launch-1.0", "--version"], r"GStreamer (\S+)"),
    "rtmpdump": (["rtmpdump", "--help"], r"RTMPDump (\S+)"),
    "VLC": (["dpkg-query", "-W", "-f", "${Version}", "vlc-bin"], r"(\S+)"),  # it would not tell root
    OBS: (["obs", "--version"], r"OBS Studio - (\S+)"),
}

Result = Mapping[str, Any]


def version(name: str) -> str:
    """What a program says of itself, or what stands for that."""
    if name == "PyAV":
        return str(av.__version__)
    for known, (command, pattern) in _VERSIONS.items():
        if name.startswith(known):
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=30)
            except FileNotFoundError:
                return "not installed"
            found = re.search(pattern, run.stdout + run.stderr)
            return found[1] if found else "unknown"
    return "unknown"


def tables(results: Iterable[Result]) -> str:
    """All of them. What no result is there for, has failed or was not run."""
    found = list(results)
    parts = [
        ["| publishes | version | RTMP | RTMPS |", "|---|---|---|---|"],
        ["| plays | version | RTMP | RTMPS | when the publisher says goodbye |", "|---|---|---|---|---|"],
        ["| video \\ audio | " + " | ".join(SOUNDS) + " |", "|---" * (len(SOUNDS) + 1) + "|"],
    ]
    for name in [*(publisher.name for publisher in PUBLISHERS), OBS]:
        cells = [_cell(_find(found, table="publishers", program=name, scheme=scheme)) for scheme in SCHEMES]
        parts[0].append(f"| {name} | {version(name)} | {' | '.join(cells)} |")
    for player in PLAYERS:
        cells = [_cell(_find(found, table="players", program=player.name, scheme=scheme)) for scheme in SCHEMES]
        end = "leaves" if player.leaves else "connects anew, and waits"
        parts[1].append(f"| {player.name} | {version(player.name)} | {' | '.join(cells)} | {end} |")
    for picture in PICTURES:
        cells = [_cell(_find(found, table="codecs", codecs=[picture, sound], scheme="rtmp")) for sound in SOUNDS]
        parts[2].append(f"| {picture} | {' | '.join(cells)} |")
    more = [result for result in found if result["table"] == "codecs" and not _in_grid(result["codecs"])]
    lines = [f"- {' + '.join(result['codecs'])}: {_cell(result)}" for result in more]
    return "\n\n".join("\n".join(part) for part in (*parts, lines)) + "\n"


def _in_grid(codecs: list[str]) -> bool:
    return len(codecs) == 2 and codecs[0] in PICTURES and codecs[1] in SOUNDS


def _find(results: list[Result], **wanted: Any) -> Result | None:
    return next((result for result in results if all(result.get(key) == value for key, value in wanted.items())), None)


def _cell(result: Result | None) -> str:
    if result is None:
        return "—"
    times = f"keyframe {_time(result['keyframe after'])}"
    if "picture after" in result:
        times += f", picture {_time(result['picture after'])}"
    return f"{'late' if late(result) else 'yes'}; {times}"


def late(result: Result) -> bool:
    """Whether the second player did not have a picture within a second."""
    return bool(max(result["keyframe after"], result.get("picture after", 0)) > 1)


def _time(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))} ms"
