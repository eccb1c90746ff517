"""Programs that are too large for each run of the tests: `python -m tests.interop` runs these as well."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from pathlib import Path

from tests.interop import programs
from tests.interop.programs import Publisher
from tests.interop.test_programs import ProgramCase
from tests.interop.test_rtmps import RTMPSCase
from tests.support.programs import Program

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
