"""Addresses and rules of pushes and pulls: what is accepted, what is said of a mistake, and what is never shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted import summary
from rtmp_twisted.relay_rules import MAX_LENGTH, Address, mask, mask_rules, parse_pull, parse_push
from rtmp_twisted.settings import Settings
from rtmp_twisted.settings_types import Mistake

KEY = "s3cret-key"

# Address; scheme, host, port, application, name, tcUrl.
GOOD = [
    ("rtmp://a.rtmp.youtube.com/live2/KEY", "rtmp", "a.rtmp.youtube.com", 1935, "live2", "KEY", "rtmp://a.rtmp.youtube.com/live2"),
    ("rtmps://h:444/app/KEY?a=b&c", "rtmps", "h", 444, "app", "KEY?a=b&c", "rtmps://h:444/app"),
    ("rtmps://h/app/KEY", "rtmps", "h", 443, "app", "KEY", "rtmps://h/app"),
    ("rtmp://h:1935/app/inst/KEY", "rtmp", "h", 1935, "app/inst", "KEY", "rtmp://h/app/inst"),
    ("rtmp://[2001:db8::1]:1936/app/KEY", "rtmp", "2001:db8::1", 1936, "app", "KEY", "rtmp://[2001:db8::1]:1936/app"),
    ("rtmp://h/stream", "rtmp", "h", 1935, "stream", "", "rtmp://h/stream"),
    ("rtmps://h/app?backup=1/KEY?insecure", "rtmps", "h", 443, "app?backup=1", "KEY", "rtmps://h/app?backup=1"),
    ("rtmps://h/app/KEY?insecure&x=y", "rtmps", "h", 443, "app", "KEY?x=y", "rtmps://h/app"),
]  # fmt: skip

# Address, what is wrong with it.
BAD = [
    ("", "not ASCII"),
    ("rtmp://h/a/b c", "blanks"),
    ("rtmp://hä/a/b", "not ASCII"),
    ("h/a/b", "begins with ''"),
    ("https://h/a/b", "begins with 'https'"),
    ("rtmp:///a/b", "no host"),
    ("rtmp://h:0/a/b", "1 to 65535"),
    ("rtmp://h:65536/a/b", "1 to 65535"),
    ("rtmp://h:x/a/b", "1 to 65535"),
    ("rtmp://[::1/a/b", "cannot be read"),
    ("rtmp://h", "no path"),
    ("rtmp://h/", "no path"),
    (f"rtmp://user:{KEY}@h/a/b", "user name"),
    ("rtmp://h/a/b?insecure", "rtmps://"),
    ("rtmp://h/a/" + KEY * MAX_LENGTH, f"more than {MAX_LENGTH}"),
]

# Rule, what is wrong with it.
BAD_PUSH = [
    ("rtmp://h/a/b", "no '='"),
    ("tv", "no '='"),
    ("=rtmp://h/a/b", "no channel"),
    ("tv=rtmp://h/a/{key}", "PULL only"),
    ("tv=rtmp://h/a/{other}", "'{other}'"),
    ("tv=rtmp://h/a/{channel", "'{channel'"),
    ("tv=rtmp://h/a/b?always", "PULL only"),
    ("tv=rtmp://h", "no path"),
]
BAD_PULL = [
    ("tv=rtmp://h/a/b", "CHANNEL/KEY"),
    ("tv/=rtmp://h/a/b", "CHANNEL/KEY"),
    ("/key=rtmp://h/a/b", "no channel"),
    ("tv/key=rtmp://h/a/{key}", "needs the key *"),
    ("*/key=rtmp://h/a/b?always", "one channel"),
    ("tv/*=rtmp://h/a/{key}?always", "one channel"),
]


class AddressTests(SynchronousTestCase):
    def test_good(self) -> None:
        for text, *expected, tc_url in GOOD:
            found = Address.parse(text)
            self.assertEqual([found.scheme, found.host, found.port, found.app, found.name], expected, text)
            self.assertEqual(found.tc_url, tc_url)
            self.assertEqual(found.insecure, "insecure" in text)

    def test_bad(self) -> None:
        for text, problem in BAD:
            error = self.assertRaises(Mistake, Address.parse, text)
            self.assertIn(problem, str(error))
            self.assertNotIn(KEY, str(error))

    def test_what_is_shown(self) -> None:
        for text, shown in (
            (f"rtmp://h/live/{KEY}", "rtmp://h/live/***"),
            (f"rtmps://h:1/live/more/{KEY}?token={KEY}", "rtmps://h:1/live/***"),
            (f"rtmp://h/{KEY}", "rtmp://h/***"),
            (f"rtmp://h/live2?backup=1/{KEY}", "rtmp://h/***"),
        ):
            self.assertEqual(str(Address.parse(text)), shown)
            self.assertNotIn(KEY, repr(Address.parse(text)))
        for text in f"rtmp://{KEY}:{KEY}@h/live/x", f"h/{KEY}/x", f"rtmp://h/?{KEY}", f"rtmp://h?{KEY}", KEY:
            self.assertNotIn(KEY, mask(text))


class RuleTests(SynchronousTestCase):
    def test_bad(self) -> None:
        for parse, table in ((parse_push, BAD_PUSH), (parse_pull, BAD_PULL)):
            for text, problem in table:
                error = self.assertRaises(
                    Mistake, parse, f"{'ok' if parse is parse_push else 'ok/*'}=rtmp://h/a/b {text}"
                )
                self.assertIn(problem, str(error), text)

    def test_patterns(self) -> None:
        [exact, some, every] = parse_push("tv=rtmp://h/a/b t*v=rtmp://h/a/{channel} *=rtmp://h/{channel}/x")
        matching = {name: [rule.matches(name) for rule in (exact, some, every)] for name in ("tv", "t1v", "tvs", "t.v")}
        self.assertEqual(matching["tv"], [True, True, True])
        self.assertEqual(matching["t1v"], [False, True, True])
        self.assertEqual(matching["tvs"], [False, False, True])
        self.assertEqual([rule.matches("radio") for rule in (exact, some, every)], [False, False, True])
        self.assertEqual(some.address("t1v").name, "t1v")
        self.assertEqual(every.address("a/b?c&{key}").app, "a%2Fb%3Fc%26%7Bkey%7D")

    def test_pull(self) -> None:
        one, any_key, always = parse_pull("a/k=rtmp://h/a/b b*/*=rtmp://h/{channel}/{key} c/k=rtmp://h/a/b?always&x=1")
        self.assertEqual((one.key, any_key.key, always.key), ("k", None, "k"))
        self.assertEqual((one.passes_key, any_key.passes_key), (False, True))
        self.assertEqual((one.always, always.always), (False, True))
        self.assertEqual(any_key.address("bc", "k y").name, "k%20y")
        self.assertEqual(always.address("c").name, "b?x=1")

    def test_what_is_shown(self) -> None:
        rules = parse_pull(f"tv/{KEY}=rtmp://h/live/{KEY}?t={KEY} radio/*=rtmp://h/live/{KEY}")
        shown = "tv/***=rtmp://h/live/*** radio/*=rtmp://h/live/***"
        self.assertEqual(" ".join(map(str, rules)), shown)
        self.assertEqual(mask_rules(shown), shown)
        self.assertNotIn(KEY, repr(rules))
        settings = Settings.load({"PULL": f"tv/{KEY}=rtmp://h/live/{KEY}", "PUSH": f"tv=rtmp://h/live/{KEY}"})
        self.assertNotIn(KEY, "\n".join(summary.lines(settings)) + repr(settings))
        self.assertNotIn(KEY, mask_rules(f"tv:{KEY} {KEY}"))
