"""Pages of another site in a real Chromium: the snippets of docs/watch.md. ./tools/test gets their players from npm."""

from __future__ import annotations

import re

from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data, File

from tests.browser.case import COLOR, HAS_PICTURE, PITCH, PageCase
from tests.browser.chromium import Page
from tests.browser.encoder import film
from tests.support.clips import CURRENT_FFMPEG, QUIET
from tests.support.fakes import reactor
from tests.support.programs import ROOT, Program

HLS_SECONDS = 3
"""How far behind hls.js may be."""

PLAYERS = ROOT / "build" / "npm" / "node_modules"


class SnippetTests(PageCase):
    async def page_with(self, what: str) -> Page:
        """Opens the only snippet with these words in it, with this server's address."""
        snippets = re.findall(r"^```html\n(.*?)^```", (ROOT / "docs/watch.md").read_text(), re.MULTILINE | re.DOTALL)
        [snippet] = [one for one in snippets if what in one]
        html = snippet.replace("http://127.0.0.1:8935", self.url("")).replace("/channel/key", "/tv/key")
        site = Resource()
        site.putChild(b"", Data(html.encode(), "text/html; charset=utf-8"))
        for name in re.findall('script src="(.*?)"', html):
            site.putChild(name.encode(), File(str(PLAYERS / name / "dist" / name)))
        port = reactor.listenTCP(0, Site(site), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return await self.browser.open(f"http://localhost:{port.getHost().port}/")

    async def test_embedded(self) -> None:
        """The picture alone, and the controls on it."""
        await self.serve()
        await self.encoder()
        page = await self.page_with("<iframe")
        await self.server.until("watching channel")
        self.assertEqual(page.complaints, [])
        await page.close()
        page = await self.watch("/tv/key?embed")
        self.assertEqual(await page.evaluate("getComputedStyle(document.querySelector('h1')).display"), "none")
        self.assertTrue(await page.evaluate("document.getElementById('stage').offsetHeight === innerHeight"))
        await self.shows(page, "red")
        self.assertEqual(page.complaints, [])

    async def test_mpegts(self) -> None:
        """FLV has one track of each kind, since mpegts.js knows no others."""
        await self.serve()
        encoder = await self.encoder()
        page = await self.page_with("mpegts.js")
        await page.until(HAS_PICTURE, "a picture")
        await page.until(f"{COLOR} === 'red'")
        self.assertLess(abs(await page.evaluate("video.muted = false, " + PITCH) - 440), 10)
        await encoder.follow(await film(self, "blue"))
        await page.until(f"{COLOR} === 'blue'")
        self.assertEqual(page.complaints, [])

    async def test_hls(self) -> None:
        """In its low-latency mode it is less than 3 s behind, also when the picture changes its size."""
        await self.serve()
        encoder = await self.encoder()
        page = await self.page_with("hls.js")
        await page.until(HAS_PICTURE, "a picture")
        await page.until(f"{COLOR} === 'red'")
        self.assertLess(abs(await page.evaluate("video.muted = false, " + PITCH) - 440), 10)
        await page.until(f"hls.playingDate && Date.now() - hls.playingDate < {HLS_SECONDS * 1000}", "near live")
        times = []
        for color in ("blue", "red") * 3:
            await encoder.follow(await film(self, color, size="640x360" if color == "blue" else "320x180"))
            began = reactor.seconds()
            await page.until(f"{COLOR} === '{color}'")
            times.append(reactor.seconds() - began)
            if times[-1] < HLS_SECONDS:
                break
        self.assertLess(min(times), HLS_SECONDS)
        self.assertEqual(page.complaints, [])

    async def test_three_tracks(self) -> None:
        """What the current ffmpeg sends as three video tracks: hls.js finds three variants, and switches between them.
        mpegts.js gets the first."""
        await self.serve()
        pictures = {320: "red", 640: "blue", 480: "green"}
        inputs = [f"color={color}:size={width}x{width * 9 // 16}:rate=30" for width, color in pictures.items()]
        tone = "sine=frequency=440:sample_rate=48000"
        arguments = [word for source in (*inputs, tone) for word in ("-re", "-f", "lavfi", "-i", source)]
        arguments += [word for number in range(4) for word in ("-map", str(number))]
        codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "30", "-c:a", "aac")
        url = f"rtmp://127.0.0.1:{self.server.port}/tv/key"
        Program(self, CURRENT_FFMPEG, *QUIET, *arguments, *codecs, "-f", "flv", url)
        await self.server.until("publishing channel")
        page = await self.page_with("hls.js")
        await page.until(HAS_PICTURE, "a picture")
        widths = await page.evaluate("hls.levels.map((level) => level.width)")
        self.assertEqual(sorted(widths), sorted(pictures))
        for width, color in pictures.items():
            await page.evaluate(f"hls.nextLevel = {widths.index(width)}")
            await page.until(f"{COLOR} === '{color}' && video.videoWidth === {width}", color)
        self.assertEqual(page.complaints, [])
        page = await self.page_with("mpegts.js")
        await page.until(f"{HAS_PICTURE} && {COLOR} === 'red'", "the first track")
        self.assertEqual(page.complaints, [])
