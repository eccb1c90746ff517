"""What an address asks for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.web.paths import NoSuchPath, Target, parse

PLAIN = NameRules(16)
SPECIAL = NameRules(16, allow_special=True)
EMPTY = NameRules(16, allow_empty=True)
TOKEN = "aaa.bb-_b.ccc"


class PathTests(SynchronousTestCase):
    def table(self, rows: list[tuple[str, Target | None]], names: NameRules, keyless: bool, token: bool) -> None:
        for path, expected in rows:
            if expected is None:
                self.assertRaises(NoSuchPath, parse, path.encode("latin-1"), names, keyless, token)
            else:
                self.assertEqual(parse(path.encode("latin-1"), names, keyless, token), expected, path)

    def test_with_a_key(self) -> None:
        rows: list[tuple[str, Target | None]] = [
            ("/tv/key", Target("tv", "key")),
            ("/tv/key.flv", Target("tv", "key", "flv")),
            ("/tv/key.mp4", Target("tv", "key", "mp4")),
            ("/t%76/k%65y%2eflv", Target("tv", "key", "flv")),
            ("/tv/key/index.m3u8", Target("tv", "key", "", "index.m3u8")),
            ("/tv/key/" + "x" * 64, Target("tv", "key", "", "x" * 64)),
            ("/-/_", Target("-", "_")),
        ]
        refused = ["/", "", "/tv", "/tv/", "//key", "/tv/key/", "/tv//index.m3u8", "/tv/key/a/b", "/tv/.flv", "//"]
        refused += ["/tv/key.ts", "/tv/key.FLV", "/tv/a.b.flv", "/tv/key%2Fflv", "/tv/%2e%2e", "/../tv", "/tv/../x/key"]
        refused += ["/tv/k%65%zz", "/tv/%ff", "/tv/k\xe9y", "/tv/" + "x" * 17, "/tv/key/" + "x" * 65, "/tv/key%00"]
        self.table([*rows, *((path, None) for path in refused)], PLAIN, False, False)

    def test_special_characters(self) -> None:
        """Decoded once: what was encoded is a character of the name."""
        rows: list[tuple[str, Target | None]] = [
            ("/a%2Fb/k%2Fy.flv", Target("a/b", "k/y", "flv")),
            ("/tv/a.b", Target("tv", "a.b")),
            ("/tv/a.flv.mp4", Target("tv", "a.flv", "mp4")),
            ("/tv/%2541", Target("tv", "%41")),
            ("/tv/%C3%A9", Target("tv", "\xe9")),
            ("/tv/%3E", None),
            ("/tv/", None),
        ]
        self.table(rows, SPECIAL, False, False)

    def test_empty(self) -> None:
        rows: list[tuple[str, Target | None]] = [
            ("/tv/", Target("tv", "")),
            ("/tv/.flv", Target("tv", "", "flv")),
            ("//index.m3u8", None),
            ("/tv//index.m3u8", Target("tv", "", "", "index.m3u8")),
        ]
        self.table(rows, EMPTY, False, False)

    def test_without_a_key(self) -> None:
        rows: list[tuple[str, Target | None]] = [
            ("/tv", Target("tv", None)),
            ("/tv.flv", Target("tv", None, "flv")),
            ("/tv/index.m3u8", Target("tv", None, "", "index.m3u8")),
            ("/", None),
            ("/tv/key/index.m3u8", None),
            ("/.flv", None),
            ("/tv.ts", None),
        ]
        self.table(rows, PLAIN, True, False)

    def test_with_a_token(self) -> None:
        """Names' rules do not hold for it; they do for the channel."""
        rows: list[tuple[str, Target | None]] = [
            (f"/tv/{TOKEN}", Target("tv", TOKEN)),
            (f"/tv/{TOKEN}.flv", Target("tv", TOKEN, "flv")),
            (f"/tv/{TOKEN}/index.m3u8", Target("tv", TOKEN, "", "index.m3u8")),
            ("/tv/" + "x" * 2000 + ".flv", Target("tv", "x" * 2000, "flv")),
            (f"/t.v/{TOKEN}", None),
        ]
        self.table(rows, PLAIN, False, True)
