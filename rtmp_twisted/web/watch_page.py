"""The watch page, one file for every channel: its script reads its own address. Read once, by watch.py."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from importlib.resources import files

from attrs import frozen


@frozen
class WatchPage:
    """``etag`` changes with the content. ``headers`` are those of this page only."""

    content: bytes
    etag: bytes
    headers: dict[str, str]


def load() -> WatchPage:
    """Reads the page."""
    content = (files("rtmp_twisted.web") / "page" / "index.html").read_bytes()
    # The page's address has the key in it, which is not for the servers that it links to, nor for search engines.
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _policy(content),
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex",
    }
    return WatchPage(content, hashlib.sha256(content).hexdigest()[:32].encode(), headers)


def _policy(page: bytes) -> str:
    """Returns the Content-Security-Policy (level 3): the script and the style that stand in the page, media of this
    server, and nothing else. Any site may embed it."""
    return (
        f"default-src 'none'; script-src {_hash(page, b'script')}; style-src {_hash(page, b'style')}; img-src data:; "
        "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors *"
    )


def _hash(page: bytes, element: bytes) -> str:
    """Returns the hash of the text of the page's only element of this kind (section 2.3.1)."""
    [text] = re.findall(b"(?s)<%b>(.*?)</%b>" % (element, element), page)
    return f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'"
