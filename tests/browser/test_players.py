"""Other players in a real Chromium, on a page of another site. ./tools/test gets them from npm."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data, File

from tests.browser.case import COLOR, HAS_PICTURE, PITCH, PageCase
from tests.browser.chromium import Page
from tests.browser.encoder import film
from tests.support.fakes import reactor
from tests.support.programs import ROOT

PLAYERS = ROOT / "build" / "npm" / "node_modules"


class PlayerTests(PageCase):
    async def page_with(self, package: str, script: str) -> Page:
        """A page with a package's script, which has the package's name, and with a script of its own."""
        site = Resource()
        site.putChild(b"player.js", File(str(PLAYERS / package / "dist" / package)))
        html = (
            f"<!DOCTYPE html><video id='video' muted></video><script src='player.js'></script><script>{script}</script>"
        )
        site.putChild(b"", Data(html.encode(), "text/html; charset=utf-8"))
        port = reactor.listenTCP(0, Site(site), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return await self.browser.open(f"http://localhost:{port.getHost().port}/")

    async def test_mpegts(self) -> None:
        """It knows no multitrack, so FLV has one track of each kind. It goes on behind another resolution."""
        await self.serve()
        encoder = await self.encoder()
        page = await self.page_with(
            "mpegts.js",
            f"""
            const player = mpegts.createPlayer(
                {{ type: 'flv', isLive: true, url: '{self.url("/tv/key.flv")}' }},
                {{ liveSync: true, enableStashBuffer: false }},
            );
            player.attachMediaElement(video);
            player.load();
            player.play();
            """,
        )
        await page.until(HAS_PICTURE, "a picture")
        await page.until(f"{COLOR} === 'red'")
        self.assertLess(abs(await page.evaluate("video.muted = false, " + PITCH) - 440), 10)
        encoder.switch(await film(self, "blue", "H.264", "640x360"))
        await page.until(f"{COLOR} === 'blue' && video.videoWidth === 640")
        self.assertEqual(page.complaints, [])
