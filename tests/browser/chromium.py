"""A real Chromium without a window, driven over its DevTools protocol. It is started for a test and ends with it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.trial.unittest import TestCase

from tests.support.fakes import PATIENCE, reactor, within
from tests.support.programs import Program

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=800,600",
)

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the longest answer, which has a screenshot in it."""


class _DevTools(WebSocketClientProtocol):  # type: ignore[misc]
    """One connection to the browser, for all of its pages."""

    factory: Any

    def onOpen(self) -> None:
        self.factory.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.browser.received(json.loads(payload))


class Browser:
    """``flags`` are Chromium's, behind those that every test wants."""

    def __init__(self, case: TestCase, *flags: str) -> None:
        self._case = case
        self._flags = flags
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Deferred[Any]] = {}
        self._pages: dict[str, Page] = {}

    async def start(self) -> None:
        profile = f"--user-data-dir={Path(self._case.mktemp()).absolute()}"
        program = Program(self._case, "chromium", *FLAGS, profile, *self._flags, "about:blank")
        url = (await program.until(r"DevTools listening on (ws://\S+)"))[1]
        factory = WebSocketClientFactory(url)
        factory.protocol = _DevTools
        factory.browser = self
        factory.opened = Deferred()
        factory.setProtocolOptions(maxMessagePayloadSize=MAX_MESSAGE)
        address = urlsplit(url)
        await within(HostnameEndpoint(reactor, "127.0.0.1", address.port or 0).connect(factory))
        self._connection = await within(factory.opened)
        # Runs before the program is killed.
        self._case.addCleanup(self._stop, program)

    async def open(self, url: str) -> Page:
        """Opens a page in a tab of its own, which is then in the foreground."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in "Page", "Runtime", "Log":
            await page.call(f"{domain}.enable")
        await page.call("Page.navigate", url=url)
        return page

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Calls a method of the DevTools protocol, and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answer = self._waiting[number] = Deferred()
        self._connection.sendMessage(json.dumps(message).encode())
        return await within(answer)

    def received(self, message: dict[str, Any]) -> None:
        waiting = self._waiting.pop(message.get("id", 0), None)
        if waiting is None:
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None:
                page.happened(message["method"], message["params"])
        elif "error" in message:
            waiting.errback(AssertionError(message["error"]["message"]))
        else:
            waiting.callback(message["result"])

    async def _stop(self, program: Program) -> None:
        self._connection.sendMessage(b'{"id": 0, "method": "Browser.close"}')
        await within(program.ended)


class Page:
    """A tab. ``complaints`` are the errors so far: exceptions of scripts, and what the browser has refused."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.complaints: list[str] = []
        self._browser = browser
        self._session = session
        self._target = target

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self._browser.call(method, self._session, **parameters)

    async def evaluate(self, expression: str) -> Any:
        """Returns the value of an expression, or what it promises. An exception in it fails the test."""
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {_exception(result['exceptionDetails'])}")
        return result["result"].get("value")

    async def until(self, expression: str, what: str = "") -> Any:
        """Waits until an expression is true, which is looked at every 10 ms in the page itself. Returns its value."""
        limit = int(PATIENCE * 900)
        found = await self.evaluate(
            f"""new Promise((resolve) => {{
                const limit = performance.now() + {limit};
                const look = () => {{
                    let value;
                    try {{ value = {expression}; }} catch (error) {{ value = undefined; }}
                    if (value) resolve({{ value }});
                    else if (performance.now() > limit) resolve({{ late: document.body?.innerText }});
                    else setTimeout(look, 10);
                }};
                look();
            }})"""
        )
        if "late" in found:
            raise AssertionError(f"{what or expression} did not come true; the page says: {found['late']}")
        return found["value"]

    async def press(self, key: str) -> None:
        """Presses a key, such as ``m`` or ``Tab``."""
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def close(self) -> None:
        await self._browser.call("Target.closeTarget", targetId=self._target)

    async def bring_to_front(self) -> None:
        await self.call("Page.bringToFront")

    def happened(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(_exception(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["source"] in ("security", "violation"):
            self.complaints.append(parameters["entry"]["text"])


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
