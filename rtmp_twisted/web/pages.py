"""The watch page: the files in ``page/``, read once and kept. ``index.html`` is the page of every channel; each other
file has its name as its path, which cannot be a channel's."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from importlib.resources import files
from typing import Final

from attrs import frozen

INDEX: Final = "index.html"

_CONTENT_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}


@frozen
class PageFile:
    """``etag`` changes with the content. ``headers`` are those of this file only."""

    content: bytes
    etag: bytes
    headers: dict[str, str]


class PageFiles:
    """All files of the page, by name."""

    def __init__(self) -> None:
        self._files = {
            file.name: _page_file(file.name, file.read_bytes())
            for file in (files("rtmp_twisted.web") / "page").iterdir()
            if file.name.rpartition(".")[2] in _CONTENT_TYPES
        }

    @property
    def index(self) -> PageFile:
        return self._files[INDEX]

    def get(self, path: bytes) -> PageFile | None:
        """The file at a path, if there is one other than the index."""
        name = path[1:].decode("ascii", "replace")
        return None if name == INDEX else self._files.get(name)


def _page_file(name: str, content: bytes) -> PageFile:
    digest = hashlib.sha256(content).hexdigest()[:32]
    # A page's address has the key in it, which is not for the servers that it links to, nor for search engines.
    headers = {
        "Content-Type": _CONTENT_TYPES[name.rpartition(".")[2]],
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy(content),
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex",
    }
    return PageFile(content, digest.encode(), headers)


def policy(page: bytes) -> str:
    """The Content-Security-Policy (level 3) of a page: what stands in it and comes from this server, nothing else. Any
    site may embed it."""
    scripts, styles = (
        "".join(f" 'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'" for text in re.findall(pattern, page))
        for pattern in (rb"(?s)<script[^>]*>(.+?)</script>", rb"(?s)<style[^>]*>(.+?)</style>")
    )
    return (
        f"default-src 'none'; script-src 'self'{scripts}; style-src 'self'{styles}; connect-src 'self'; "
        "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors *"
    )
