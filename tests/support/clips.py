"""Clips that tests play: a moving test picture and a tone, in any codec that the current ffmpeg has."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import imageio_ffmpeg
from twisted.trial.unittest import TestCase

from tests.support.fakes import within
from tests.support.programs import Program

CURRENT_FFMPEG: str = imageio_ffmpeg.get_ffmpeg_exe()
"""The ffmpeg of the package imageio-ffmpeg."""

QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin")

SECONDS = 60
"""Longer than any test plays: tests stop their publisher when they have seen what they need."""

TRIES = 3
"""Attempts to make a clip. The last one is used as it is, so that the test says what is wrong with it."""

GROUP = SECONDS * 30
"""Frames of a group of pictures. Only the first is a keyframe, so a late player can only get it from the cache."""

_PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30")
_TONE = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000")
_ENCODERS: dict[str, tuple[str, ...]] = {
    "H.264": (*_PICTURE, "-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", str(GROUP)),
    "HEVC": (*_PICTURE, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-g", str(GROUP)),
    "AV1": (*_PICTURE, "-c:v", "libsvtav1", "-preset", "12", "-g", str(GROUP), "-svtav1-params", "lookahead=0"),
    "VP9": (*_PICTURE, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", str(GROUP)),
    "H.263": (*_PICTURE, "-c:v", "flv1", "-g", "600"),
    "AAC": (*_TONE, "-c:a", "aac"),
    "Opus": (*_TONE, "-c:a", "libopus"),
    "FLAC": (*_TONE, "-c:a", "flac"),
    "MP3": (*_TONE, "-c:a", "libmp3lame"),
    "AC-3": (*_TONE, "-c:a", "ac3"),
    "E-AC-3": (*_TONE, "-c:a", "eac3"),
    "G.711": (*_TONE, "-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1"),
}
VIDEO = frozenset(codec for codec, encoder in _ENCODERS.items() if "-c:v" in encoder)

_made: dict[tuple[str, ...], Path] = {}
_directory: Path | None = None


async def clip(case: TestCase, *codecs: str, kind: str = "mkv") -> Path:
    """A clip of `SECONDS` with a track in each of ``codecs``, made once in a run of tests."""
    wanted = (*codecs, kind)
    if wanted not in _made:
        if len(codecs) == 1 and kind == "mkv":
            arguments = [*_ENCODERS[codecs[0]], "-t", str(SECONDS)]
        else:
            tracks = [await clip(case, codec) for codec in codecs]
            arguments = [argument for track in tracks for argument in ("-i", str(track))]
            arguments += [argument for number in range(len(tracks)) for argument in ("-map", str(number))]
            arguments += ["-c", "copy", "-shortest"]
        path = _new_path(f"{'-'.join(codecs)}.{kind}")
        for _ in range(TRIES):
            await current_ffmpeg(case, *arguments, str(path))
            if await _is_sound(case, path):
                break
        _made[wanted] = path
    return _made[wanted]


async def _is_sound(case: TestCase, path: Path) -> bool:
    """Whether a clip can be decoded: on a very busy machine an encoder once made one that cannot."""
    program = Program(case, CURRENT_FFMPEG, *QUIET, "-xerror", "-i", str(path), "-f", "null", "-")
    return await within(program.ended) == 0 and not program.lines


async def current_ffmpeg(case: TestCase, *arguments: str) -> list[str]:
    """Runs the current ffmpeg, which has to succeed. Returns its lines."""
    program = Program(case, CURRENT_FFMPEG, *QUIET, "-y", *arguments)
    status = await within(program.ended)
    case.assertEqual(status, 0, str(program))
    return program.lines


async def pictures(case: TestCase, path: Path, track: int = 0) -> list[str]:
    """A checksum of each decoded picture of a video track. A decoding error fails the test."""
    decode = ("-map", f"0:v:{track}", "-fps_mode", "passthrough", "-f", "framemd5", "-")
    lines = await current_ffmpeg(case, "-xerror", "-i", str(path), *decode)
    case.assertEqual([line for line in lines if not line.startswith(("#", "0,"))], [], f"decoding {path.name}")
    return [line.rsplit(",", 1)[1].strip() for line in lines if line.startswith("0,")]


def _new_path(name: str) -> Path:
    global _directory
    if _directory is None:
        _directory = directory = Path(tempfile.mkdtemp(prefix="clips-"))
        directory.chmod(0o755)  # one of the programs refuses to run as root
        # Not with the reactor's shutdown: trial -j fires that after each test.
        atexit.register(shutil.rmtree, directory, True)
    return _directory / name
