"""The programs that publish and play: how each is started, and what is to be known of it.

Each publisher sends a clip as if it were live. Each player records, in whatever form it has, what it played.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from tests.support.clips import CURRENT_FFMPEG, QUIET
from tests.support.programs import ROOT

Command = list[str]


@frozen
class Publisher:
    """``command`` is given the clip, the address, and the PEM file of who vouches for an RTMPS server ("": RTMP)."""

    name: str
    command: Callable[[str, str, str], Command]
    clip: str = "mkv"
    """The file format that it reads; "" where it has pictures of its own."""
    stop: int = signal.SIGINT
    """The signal that ends it."""
    jumps: bool = False
    """Whether its clock jumps at the beginning: players see other times than its own, then."""


@frozen
class Player:
    """``command`` is given the address, the recording's path, and the PEM file as above."""

    name: str
    command: Callable[[str, str, str], Command]
    recording: str = "mkv"
    """The file format that it writes. A "png" is what it showed last."""
    picture: str = ""
    """What it prints when it has its first picture."""
    leaves: bool = True
    """Whether it ends when it is told that its publisher has gone."""


def ffmpeg(program: str, name: str) -> tuple[Publisher, Player]:
    """ffmpeg of some version. As a player it is strict: it ends at the first thing that is not as it should be."""

    def publish(clip: str, url: str, authority: str) -> Command:
        return [program, *QUIET, "-re", "-i", clip, "-map", "0", "-c", "copy", *_tls(authority), "-f", "flv", url]

    def play(url: str, recording: str, authority: str) -> Command:
        picture = ("-map", "0:v:0", "-frames:v", "1", "-flush_packets", "1", "-f", "framemd5", "-")
        strict = ("-xerror", "-err_detect", "explode", "-copyts")
        return [program, *QUIET, *strict, *_tls(authority), "-i", url, "-map", "0", "-c", "copy", recording, *picture]

    return Publisher(name, publish), Player(name, play, picture="^0,")


def _tls(authority: str) -> list[str]:
    return ["-tls_verify", "1", "-ca_file", authority] if authority else []


UNCHECKED = "tls-validation-flags=0"  # GStreamer knows no other authorities than the system's


def _gstreamer_publish(element: str) -> Callable[[str, str, str], Command]:
    def publish(clip: str, url: str, authority: str) -> Command:
        pipeline = (
            f"filesrc location={clip} ! flvdemux name=d  flvmux name=m streamable=true ! "
            f"{element} location={url} {UNCHECKED if authority and element == 'rtmp2sink' else ''} "
            "d.video ! queue ! h264parse ! m.video  d.audio ! queue ! aacparse ! m.audio"
        )
        return ["gst-launch-1.0", "-e", "-q", *pipeline.split()]

    return publish


def _gstreamer_play(element: str) -> Callable[[str, str, str], Command]:
    def play(url: str, recording: str, authority: str) -> Command:
        unchecked = [UNCHECKED] if authority and element == "rtmp2src" else []
        source = [element, f"location={url}", *unchecked]
        return ["gst-launch-1.0", "-e", "-q", *source, "!", "filesink", f"location={recording}"]

    return play


def _rtmpdump(url: str, recording: str, authority: str) -> Command:
    return ["rtmpdump", "--live", "--quiet", "--rtmp", url, "--flv", recording]


def _pyav(what: str) -> Callable[[str, str, str], Command]:
    def command(one: str, other: str, authority: str) -> Command:
        return [sys.executable, str(ROOT / "tests/interop/pyav.py"), what, one, other, authority]

    return command


def _vlc(*arguments: str) -> Command:
    # It refuses to be root, and takes no other word for it.
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    return [*as_nobody, "vlc", "--intf=dummy", "--quiet", *arguments, "vlc://quit"]


def _vlc_publish(clip: str, url: str, authority: str) -> Command:
    return _vlc(clip, f"--sout=#std{{access=rtmp,mux=ffmpeg{{mux=flv}},dst={url}}}")


def _vlc_play(url: str, recording: str, authority: str) -> Command:
    # What it shows, as a picture that each one replaces: what it records has lost its times.
    shown = Path(recording)
    scene = ["--scene-format=png", "--scene-ratio=1", "--scene-replace", f"--scene-prefix={shown.stem}"]
    where = f"--scene-path={shown.parent}"
    return _vlc(url, "--vout=dummy", "--aout=dummy", "--avcodec-hw=none", "--video-filter=scene", *scene, where)


def vlc_record(url: str, recording: str) -> Command:
    """Writes the packets as MPEG-TS."""
    return _vlc(url, f"--sout=#std{{access=file,mux=ts,dst={recording}}}")


DEBIAN_FFMPEG, DEBIAN_FFMPEG_PLAYER = ffmpeg("ffmpeg", "Debian's ffmpeg")
CURRENT, CURRENT_PLAYER = ffmpeg(CURRENT_FFMPEG, "current ffmpeg")
PYAV = Publisher("PyAV", _pyav("publish"), "flv")
PYAV_PLAYER = Player("PyAV", _pyav("play"), picture="^picture")
RTMP2SINK = Publisher("GStreamer rtmp2sink", _gstreamer_publish("rtmp2sink"), "flv")
RTMP2SRC = Player("GStreamer rtmp2src", _gstreamer_play("rtmp2src"), "flv")
RTMPSINK = Publisher("GStreamer rtmpsink", _gstreamer_publish("rtmpsink"), "flv")
RTMPSRC = Player("GStreamer rtmpsrc", _gstreamer_play("rtmpsrc"), "flv", leaves=False)
RTMPDUMP = Player("rtmpdump", _rtmpdump, "flv")
VLC = Publisher("VLC", _vlc_publish, "flv", jumps=True)
VLC_PLAYER = Player("VLC", _vlc_play, "png")
