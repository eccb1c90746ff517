"""Programs that are too large for each run of the tests: `python -m tests.interop` runs these as well."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from pathlib import Path

from tests.interop import programs
from tests.interop.programs import Publisher
from tests.interop.test_ffmpeg import AAC, AUDIO, H264, VIDEO, deferred
from tests.interop.test_programs import ProgramCase
from tests.interop.test_rtmps import RTMPSCase
from tests.interop.test_web import WebCase
from tests.support.fakes import within
from tests.support.programs import Program, Server

OBS_GLOBAL = """
[General]
FirstRun=true
EnableAutoUpdates=false
LastVersion=486539264

[Basic]
Profile=P
ProfileDir=P
SceneCollection=S
SceneCollectionFile=S
"""
OBS_PROFILE = """
[General]
Name=P

[Video]
BaseCX=320
BaseCY=180
OutputCX=320
OutputCY=180
FPSCommon=30

[Output]
Mode=Simple

[SimpleOutput]
VBitrate=500
StreamEncoder=x264
Preset=ultrafast
ABitrate=96
"""
OBS_SCENE = {
    "current_scene": "Scene",
    "current_program_scene": "Scene",
    "name": "S",
    "scene_order": [{"name": "Scene"}],
    "sources": [{"id": "scene", "name": "Scene", "settings": {"items": [], "id_counter": 0}}],
}


class VLCTests(ProgramCase):
    async def test_publish(self) -> None:
        await self.check_publisher(programs.VLC)

    async def test_play(self) -> None:
        await self.check_player(programs.VLC_PLAYER)


class VLCOverHTTPTests(WebCase):
    async def record(self, server: Server, suffix: str) -> Path:
        """Plays to the end; returns what it recorded."""
        directory = Path(tempfile.mkdtemp(prefix="recording-"))
        directory.chmod(0o777)  # it will not be root
        self.addCleanup(shutil.rmtree, directory)
        recording = directory / "recording.ts"
        player = Program(self, *programs.vlc_record(self.url(suffix), str(recording)))
        self.assertEqual(await within(player.ended), 0, str(player))
        return recording

    async def check(self, suffix: str, *options: str) -> None:
        """Pictures and sound are those that were published. Of the last frames, its MPEG-TS lacks some."""
        server = await self.serve()
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        recorded = deferred(self.record(server, suffix))
        if suffix.startswith("."):
            await server.until(" waiting for a publisher")
        await self.publish(server, clip, *options)
        recording = await within(recorded)
        for stream, form in ("v", "h264"), ("a", "adts"):
            raw = ("-map", f"0:{stream}:0", "-c", "copy", "-f", form)
            contents = [Path(self.mktemp()) for _ in range(2)]
            for source, content in zip((clip, recording), contents, strict=True):
                bits = ("-bsf:v", "h264_mp4toannexb,filter_units=remove_types=6|7|8|9") if form == "h264" else ()
                await self.ffmpeg("-i", str(source), *raw, *bits, str(content))
            sent, received = (content.read_bytes() for content in contents)
            self.assertIn(received, sent * 3)
            self.assertGreater(len(received), len(sent) * 0.95)

    async def test_flv(self) -> None:
        await self.check(".flv")

    async def test_mp4(self) -> None:
        await self.check(".mp4")

    async def test_hls(self) -> None:
        await self.check("/index.m3u8", "-stream_loop", "2")


class OBSTests(ProgramCase):
    async def test_publish(self) -> None:
        """OBS Studio on a screen that nobody sees, set up as a person would, streaming a black picture and silence."""
        screen = Program(self, "Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp")
        display = await screen.until(r"^\d+$")
        home = Path(tempfile.mkdtemp(prefix="obs-"))
        self.addCleanup(shutil.rmtree, home)

        def command(clip: str, url: str, authority: str) -> list[str]:
            # It finds no addresses in certificates.
            server, _, key = url.replace("127.0.0.1", "localhost").rpartition("/")
            write_settings(home, server, key)
            variables = [f"HOME={home}", f"XDG_CONFIG_HOME={home}", f"DISPLAY=:{display[0]}", "LIBGL_ALWAYS_SOFTWARE=1"]
            return [*vouching(authority), "env", *variables, "obs", "--startstreaming", "--multi"]

        await self.check_publisher(Publisher("OBS Studio", command, clip="", stop=signal.SIGTERM))


class VLCOverTLSTests(RTMPSCase, VLCTests):
    pass


class OBSOverTLSTests(RTMPSCase, OBSTests):
    pass


def vouching(authority: str) -> list[str]:
    """Begins a command for which nobody but ``authority`` vouches: it knows the system's authorities only."""
    mount = 'mount -t tmpfs none /etc/ssl/certs && cp "$0" /etc/ssl/certs/ && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, authority] if authority else []


def write_settings(home: Path, server: str, key: str) -> None:
    """OBS's settings, profile and scene below its configuration directory."""
    profile = home / "obs-studio/basic/profiles/P"
    scenes = home / "obs-studio/basic/scenes"
    for directory in profile, scenes:
        directory.mkdir(parents=True)
    (home / "obs-studio/global.ini").write_text(OBS_GLOBAL)
    (profile / "basic.ini").write_text(OBS_PROFILE)
    service = {"type": "rtmp_custom", "settings": {"server": server, "key": key, "use_auth": False}}
    (profile / "service.json").write_text(json.dumps(service))
    (scenes / "S.json").write_text(json.dumps(OBS_SCENE))
