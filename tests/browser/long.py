"""What takes minutes: ``./tools/test tests.browser.long``, which .ci/long runs."""

from __future__ import annotations

from tests.browser.case import PageCase
from tests.browser.test_page import BEHIND_SECONDS

MILLISECONDS = 600_000

SAMPLE = """
    globalThis.found = [];
    globalThis.stalls = 0;
    video.addEventListener('waiting', () => stalls++);
    setInterval(() => found.push(Date.now() / 1000 - (%r + video.currentTime)), 100);
"""
"""Ten times a second: how far the picture is behind the encoder, by the encoder's clock."""


class LongTests(PageCase):
    timeout = 900

    async def test_near_for_ten_minutes(self) -> None:
        await self.serve()
        encoder = await self.encoder()
        page = await self.watch()
        await self.shows(page, "red")
        await page.evaluate(SAMPLE % encoder.zero)
        held = "video.buffered.end(0) - video.buffered.start(0)"
        for _ in range(MILLISECONDS // 30_000):  # each shorter than a wait may be
            await encoder.until_sent(30_000)
            self.assertLess(await page.evaluate(held), 30)
        found = sorted(await page.evaluate("found"))
        stalls = await page.evaluate("stalls")
        near = [found[int(len(found) * share)] for share in (0.5, 0.99)]
        print(f"behind the encoder: median {near[0]:.3f} s, p99 {near[1]:.3f} s, {stalls} stalls", flush=True)
        self.assertGreater(len(found), MILLISECONDS / 100 * 0.8)
        self.assertLessEqual(near[1], BEHIND_SECONDS)
        self.assertEqual(self.watched(), 1)

    async def test_a_minute_in_the_background(self) -> None:
        await self.serve()
        encoder = await self.encoder()
        page = await self.watch()
        await self.shows(page, "red")
        await (await self.browser.open("about:blank")).bring_to_front()
        await page.until("document.hidden")
        for _ in range(3):
            await encoder.until_sent(20_000)
        await page.bring_to_front()
        await self.shows(page, "red")
        self.assertEqual(self.watched(), 1)
