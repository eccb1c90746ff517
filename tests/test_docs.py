"""The documentation: its commands are run as they stand, and its links and the names in it are checked."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from attrs import fields
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.misspelt import WELL_KNOWN
from rtmp_twisted.settings import Settings
from tests.support.clips import clip
from tests.support.fakes import until, within
from tests.support.programs import ROOT, Program, Server, free_port
from tests.support.redis_server import RedisServer

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: str) -> list[str]:
    """Returns the commands in a page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class CommandTests(TestCase):
    timeout = 180

    async def start(self, **settings: str) -> Server:
        server = Server(self, **settings)
        await server.up()
        return server

    async def program(self, command: str, server: Server | None = None) -> Program:
        """Starts a command of a page, with the server's port and with files that exist."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        video = await clip(self, "H.264", "AAC", kind="mp4")
        text = command.replace(" -re ", " -nostdin -re ")
        if server is not None:
            text = text.replace("127.0.0.1/", f"127.0.0.1:{server.port}/")
        words = [
            str(video) if word == "video.mp4" else str(directory / word) if word.startswith("recording.") else word
            for word in shlex.split(text)
        ]
        return Program(self, *words)

    async def times(self, server: Server, text: str, count: int) -> None:
        """Waits until the server has said that so often."""
        await until(lambda: sum(text in line for line in server.lines) >= count, f"{text}, {count} times")

    async def test_publish(self) -> None:
        found = commands("docs/publish.md")
        self.assertEqual(len(found), 4)
        for command in found:
            server = await self.start()
            program = await self.program(command, server)
            await server.until("publishing channel")
            await program.kill()

    async def test_play(self) -> None:
        server = await self.start()
        publisher = await self.program(commands("docs/publish.md")[0], server)
        await server.until(" publishing channel")
        found = commands("docs/play.md")
        self.assertEqual(len(found), 3)
        for number, command in enumerate(found, 1):
            program = await self.program(command, server)
            await self.times(server, " playing channel", number)
            if "-t 5" in command or "--stop 5" in command:
                self.assertEqual(await within(program.ended), 0, str(program))
            await program.kill()
        await publisher.kill()

    async def test_watch(self) -> None:
        port = free_port()
        server = await self.start(web_port=str(port))
        publisher = await self.program(commands("docs/publish.md")[0], server)
        await server.until(" publishing channel")
        found = commands("docs/watch.md")
        self.assertEqual(len(found), 2)
        for number, command in enumerate(found, 1):
            command = command.replace(":8935", f":{port}").replace("recording", str(Path(self.mktemp()).absolute()))
            program = Program(self, "env", "SDL_VIDEODRIVER=dummy", "SDL_AUDIODRIVER=dummy", *shlex.split(command))
            await self.times(server, " watching channel", number)
            if "-t 5" in command:
                self.assertEqual(await within(program.ended), 0, str(program))
            await program.kill()
        await publisher.kill()

    async def test_operators(self) -> None:
        port = free_port()
        server = await self.start(http_port=str(port))
        publisher = await self.program(commands("docs/publish.md")[0], server)
        await server.until(" publishing channel")
        found = commands("docs/operations.md")
        self.assertEqual(len(found), 6)
        for command in found:
            program = Program(self, *shlex.split(command.replace("curl", "curl -sSf").replace(":8080", f":{port}")))
            self.assertEqual(await within(program.ended), 0, str(program))
        await server.until("stopped publishing")
        await publisher.kill()

    async def test_relay(self) -> None:
        """One page, from its first command to its last, with all that they start running."""
        found = commands("docs/relay.md")
        self.assertEqual(len(found), 11)
        rtmp, http, second, third = (str(free_port()) for _ in range(4))
        ports = {"8080": http, "1936": second, "1937": third, "127.0.0.1/": f"127.0.0.1:{rtmp}/"}
        platform, pusher, publish, play, *asked, edge, watch = [replaced(command, ports) for command in found]
        for command in platform, f"{pusher} --rtmp-port {rtmp}", edge:
            server = self.run_command(f"{command} --bind-address 127.0.0.1")
            await server.until("RTMP on ")
        encoder = await self.program(publish)
        relayed = await self.program(play)
        self.assertEqual(await within(relayed.ended), 0, str(relayed))
        for command in asked:
            program = self.run_command(command.replace("curl", "curl -sSf"))
            self.assertEqual(await within(program.ended), 0, str(program))
        viewer = await self.program(watch)
        self.assertEqual(await within(viewer.ended), 0, str(viewer))
        await encoder.kill()

    def run_command(self, command: str) -> Program:
        # The page of ./tools/serve has a fixed port, which another test may use at the same time.
        return Program(self, "env", "WEB_PORT=0", "sh", "-c", f"cd {shlex.quote(str(ROOT))} && exec {command}")


def replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


class ExampleTests(TestCase):
    """The pages' three commands: an example application (or the server), the server (or ffmpeg), the last step."""

    timeout = 180

    def start(self, command: str, port: int, **environment: str) -> Program:
        """Starts a command as in a terminal in the checkout, except for the ports."""
        command = command.replace("127.0.0.1/", f"127.0.0.1:{port}/").replace(" -re ", " -nostdin -re ")
        environment["WEB_PORT"] = str(free_port())
        return Program(self, "sh", "-c", f"cd {shlex.quote(str(ROOT))} && exec env {command}", **environment)

    async def application(self, page: str, documented: int) -> None:
        """An application of ours decides: it is asked, and lets ffmpeg publish."""
        port, application_port = free_port(), free_port()
        replaced = [one.replace(str(documented), str(application_port)) for one in commands(page)]
        application, server, encoder = replaced
        asked = self.start(application, port)
        await asked.until("listening on port")
        serving = self.start(server, port, RTMP_PORT=str(port))
        await serving.until(" info RTMP on ")
        await serving.until(r" info watching in a browser: http://127.0.0.1:\d+/CHANNEL/KEY$")
        if "CONTROL_USE" in server:
            await serving.until("connected to the coordinator")
        publishing = self.start(encoder, port)
        await asked.until("start of tv from 127.0.0.1")
        await serving.until("publishing channel")
        await publishing.kill()
        await asked.until("stop of tv")

    async def test_callback(self) -> None:
        await self.application("docs/callback.md", 8080)

    async def test_coordinator(self) -> None:
        await self.application("docs/coordinator.md", 8081)

    async def test_redis(self) -> None:
        redis = RedisServer()
        self.addCleanup(lambda: Deferred.fromCoroutine(redis.dispose()))
        await redis.start()
        server, encoder, kill = commands("docs/redis.md")
        port = free_port()
        serving = self.start(server, port, RTMP_PORT=str(port), REDIS_PORT=str(redis.port))
        await serving.until("connected to Redis")
        publishing = self.start(encoder, port)
        await serving.until(" publishing channel")
        killing = self.start(kill, port, REDIS_PORT=str(redis.port))
        self.assertEqual(await within(killing.ended), 0, str(killing))
        await serving.until("stopped publishing")
        await publishing.kill()


class TextTests(SynchronousTestCase):
    def test_links(self) -> None:
        for page in PAGES:
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
                if not target.startswith("http"):
                    self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_anchors(self) -> None:
        for page in PAGES:
            for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]*)\)", page.read_text()):
                other = page.parent / target if target else page
                headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                self.assertIn(anchor, anchors, f"{page.name}: {target}")

    def test_every_page_is_linked_from_the_readme(self) -> None:
        text = (ROOT / "README.md").read_text()
        self.assertEqual([page.name for page in PAGES[2:] if f"docs/{page.name}" not in text], [])

    def test_settings_exist(self) -> None:
        """Every name in a page that looks like a setting is one."""
        known = {field.name.upper() for field in fields(Settings)}
        prefixes = {name.split("_")[0] for name in known if "_" in name} - {"MAX", "EXTERNAL"}
        for page in PAGES:
            for name in set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", page.read_text())):
                if name.split("_")[0] in prefixes and not name.endswith("_") and name not in WELL_KNOWN:
                    self.assertIn(name, known, page.name)

    def test_no_line_of_a_page_names_a_directory_of_somebody(self) -> None:
        for page in PAGES:
            self.assertNotIn(os.path.expanduser("~") + "/", page.read_text())
