"""What the browser's tests share: a server, a browser and an encoder, and what they look at in a page."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.browser.chromium import Browser, Page
from tests.browser.encoder import Encoder, film
from tests.support.programs import Server, free_port

SOUND_ALLOWED = "--autoplay-policy=no-user-gesture-required"

NEAR_SECONDS = 2.5
"""What is near live on a machine that is busy with other tests."""

STATE = "document.documentElement.dataset.state"
WORDS = "document.getElementById('words').textContent"
HAS_PICTURE = "video.readyState >= 2 && video.videoWidth > 0"

BEHIND = "Number(document.documentElement.dataset.behind)"

COLOR = """(() => {
    const canvas = new OffscreenCanvas(1, 1), context = canvas.getContext('2d');
    context.drawImage(video, video.videoWidth / 2, video.videoHeight / 2, 1, 1, 0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return red > 150 && green < 80 && blue < 80 ? 'red' : blue > 150 && red < 80 && green < 80 ? 'blue'
        : red < 80 && green > 80 && blue < 80 ? 'green' : [red, green, blue].join();
})()"""
"""The colour in the middle of the picture, in words."""

PITCH = """(async () => {
    const context = new AudioContext(), analyser = new AnalyserNode(context, { fftSize: 8192 });
    await context.resume();
    context.createMediaElementSource(video).connect(analyser).connect(context.destination);
    const levels = new Float32Array(analyser.frequencyBinCount);
    for (;;) {
        analyser.getFloatFrequencyData(levels);
        const loudest = levels.indexOf(Math.max(...levels));
        if (levels[loudest] > -40) return loudest * context.sampleRate / analyser.fftSize;
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
})()"""
"""The loudest frequency that is heard, in Hz."""


class PageCase(TestCase):
    timeout = 240

    async def serve(self, *flags: str, **settings: str) -> None:
        """Starts the server and the browser."""
        self.web_port = free_port()
        self.settings = {"web_port": str(self.web_port), "web_bind_address": "127.0.0.1", **settings}
        self.server = Server(self, **self.settings)
        self.browser = Browser(self, *(flags or [SOUND_ALLOWED]))
        await self.browser.start()
        await self.server.up()

    async def encoder(
        self, color: str = "red", codecs: str = "H.264", size: str = "320x180", milliseconds: int = 200
    ) -> Encoder:
        """An encoder that has published so much media."""
        encoder = Encoder(self, self.server.port, await film(self, color, codecs, size))
        await encoder.start()
        await encoder.until_sent(milliseconds)
        return encoder

    def url(self, path: str = "/tv/key", port: int = 0) -> str:
        return f"http://127.0.0.1:{port or self.web_port}{path}"

    async def watch(self, path: str = "/tv/key", port: int = 0) -> Page:
        page = await self.browser.open(self.url(path, port))
        await page.until(HAS_PICTURE, "a picture")
        return page

    async def shows(self, page: Page, color: str) -> None:
        """It plays, near live, and its picture has this colour."""
        await page.until(f"{STATE} === 'playing' && {COLOR} === '{color}'", color)
        await page.until(f"{BEHIND} > 0 && {BEHIND} < {NEAR_SECONDS}", "near live")

    def watched(self) -> int:
        """How often the server has begun to send a stream to a viewer."""
        return sum("watching channel" in line and "stopped" not in line for line in self.server.lines)
