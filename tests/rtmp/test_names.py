"""rtmp_twisted.rtmp.names and formatting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.names import MAX_QUERY_FIELDS, BadName, NameRules, StreamAddress

PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

ALL_RULES = [NameRules(8, empty, special) for empty in (False, True) for special in (False, True)]

PIECES = [
    "/",
    "//",
    "?",
    "cache=no",
    "_definst_",
    "%",
    "%2f",
    "%2F",
    "%3F",
    "%41",
    "%2541",
    "%0a",
    "%7c",
    "key",
    "a",
    "",
]


def texts() -> st.SearchStrategy[str]:
    """Any text, and what is made of the pieces that addresses have."""
    return st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def before(rules: NameRules, app: str, name: str) -> tuple[str, str] | None:
    """The channel and the key in the ordinary form: each as it stands, an ``app`` without its slashes at the end."""
    channel, key = app.partition("?")[0].rstrip("/"), name.partition("?")[0]
    for part in channel, key:
        bad = set(part) & set(">|\n") if rules.allow_special else set(part) - PLAIN
        if bad or len(part) > rules.max_length or not (part or rules.allow_empty):
            return None
    return channel, key


def read(rules: NameRules, app: str, name: str) -> StreamAddress:
    return rules.stream(rules.app(app), name)


class NameTests(SynchronousTestCase):
    def test_allowed(self) -> None:
        rules = NameRules(max_length=8)
        for text, name, query in (
            ("aZ09-_", "aZ09-_", {}),
            ("12345678", "12345678", {}),
            ("key?", "key", {}),
            ("key?cache=no", "key", {"cache": "no"}),
            ("key?a=1&cache=all&b=", "key", {"a": "1", "cache": "all"}),
            ("key?cache=no?x", "key", {"cache": "no?x"}),
            ("key?c%61che=%6eo", "key", {"cache": "no"}),
            ("key?cache", "key", {}),
        ):
            self.assertEqual(read(rules, "channel", text), ("channel", name, query), text)
            self.assertEqual(rules.app(text).channel, name)

    def test_forbidden(self) -> None:
        rules = NameRules(max_length=8)
        app = rules.app("channel")
        for text in (
            *("", "?cache=no", "123456789", "a b", "a/b", "..", "a.b", "*", "a|b", "a>b", "a\nb", "a\n", "\n", "a\0b"),
            *("ключ", "kéy", "٣", "a%20b", "a\N{ZERO WIDTH SPACE}", "a%", "a%4", "a%4g", "%2541", "a%2fb", "a%3fb"),
            *("a%0Ab", "a%7Cb", "a%3Eb", "%C3%A9", "%E9", "%00", "%", "%%41", "a%2Eb", "12345678%39"),
        ):
            error = self.assertRaises(BadName, rules.stream, app, text)
            if text:
                self.assertNotIn(text, str(error))
            if text != "a/b":
                self.assertRaises(BadName, rules.app, text)

    def test_special_characters(self) -> None:
        rules = NameRules(allow_special=True)
        for text in "a b", "a/b", "/a", "ключ", "*", "a\rb", "a%20b", "a;b", "_definst_/a", "a//b":
            self.assertEqual(read(rules, text, text), (text, text, {}))
        for text in "a|b", "a>b", "a\nb", "a\n", "":
            self.assertRaises(BadName, rules.app, text)
            self.assertRaises(BadName, rules.stream, rules.app("a"), text)

    def test_empty(self) -> None:
        rules = NameRules(allow_empty=True)
        self.assertEqual(read(rules, "", ""), ("", "", {}))
        self.assertEqual(read(rules, "a", "?cache=no"), ("a", "", {"cache": "no"}))
        self.assertEqual(read(rules, "a/b", ""), ("a", "b", {}))

    def test_length_is_in_characters(self) -> None:
        rules = NameRules(max_length=4, allow_special=True)
        self.assertEqual(rules.app("ключ").channel, "ключ")
        self.assertRaises(BadName, rules.app, "ключи")
        self.assertEqual(read(NameRules(max_length=4), "%6b%6c%6d%6e", "k%65y"), ("klmn", "key", {}))

    def test_too_many_fields(self) -> None:
        fields = "&".join(f"f{n}=1" for n in range(MAX_QUERY_FIELDS))
        self.assertEqual(len(read(NameRules(), "a", f"key?{fields}").query), MAX_QUERY_FIELDS)
        self.assertEqual(read(NameRules(), "a", f"key?{fields}&cache=no"), ("a", "key", {}))


class AddressTests(SynchronousTestCase):
    def test_other_forms(self) -> None:
        """Each is rtmp://host/channel/key, as some program sends it."""
        for app, name in (
            ("channel", "key"),
            ("channel/", "key"),
            ("channel/key", ""),
            ("channel/key/", ""),
            ("/channel/key", ""),
            ("channel//key", ""),
            ("/channel", "key"),
            ("//channel", "key"),
            ("channel//", "/key"),
            ("channel", "/key"),
            ("channel", "//key"),
            ("channel", "key/"),
            ("channel/_definst_", "key"),
            ("channel/_definst_/", "key"),
            ("channel//_definst_", "key"),
            ("channel/_definst_/key", ""),
            ("channel", "_definst_/key"),
            ("channel/%5Fdefinst_", "key"),
            ("%63hannel", "k%65%79"),
            ("chan%6eel/%6bey", ""),
        ):
            self.assertEqual(read(NameRules(), app, name), ("channel", "key", {}), (app, name))
            self.assertEqual(read(NameRules(allow_empty=True), app, name), ("channel", "key", {}), (app, name))

    def test_an_instance_that_is_a_name(self) -> None:
        for app, name, channel, key in (
            ("channel", "_definst_", "channel", "_definst_"),
            ("_definst_", "key", "_definst_", "key"),
            ("_definst_/key", "", "_definst_", "key"),
            ("channel/_definst_/_definst_", "", "channel", "_definst_"),
        ):
            self.assertEqual(read(NameRules(), app, name), (channel, key, {}), (app, name))
        self.assertRaises(BadName, read, NameRules(), "channel/_definst_", "")

    def test_too_many_parts(self) -> None:
        for app, name in ("a/b", "c"), ("a/b/c", ""), ("a", "b/c"), ("a/_definst_/b", "c"), ("a/b/_definst_", ""):
            self.assertRaises(BadName, read, NameRules(), app, name)

    def test_queries(self) -> None:
        for app, name, query in (
            ("channel?cache=no", "key", {}),
            ("channel?cache=no", "key?cache=all", {"cache": "all"}),
            ("channel/key?cache=no", "", {"cache": "no"}),
            ("channel/key?cache=no&a=1", "?cache=all&b=2", {"cache": "all", "a": "1", "b": "2"}),
            ("channel/key/?a=/x/y", "", {"a": "/x/y"}),
            ("channel/_definst_/key?cache=clear", "", {"cache": "clear"}),
        ):
            self.assertEqual(read(NameRules(), app, name), ("channel", "key", query), (app, name))

    def test_a_key_behind_special_characters(self) -> None:
        rules = NameRules(max_length=8, allow_special=True)
        for app, channel, key in (
            ("channel/key", "channel", "key"),
            ("channel//key?cache=no", "channel", "key"),
            ("a/b/ключ", "a/b", "ключ"),
            ("12345678/12345678", "12345678", "12345678"),
        ):
            self.assertEqual(read(rules, app, "")[:2], (channel, key))
        self.assertEqual(read(rules, "a/b?cache=no", "").query, {"cache": "no"})
        for app, name in ("channel", ""), ("/key", ""), ("12345678/12345678", "key"), ("123456789/a", ""):
            self.assertRaises(BadName, read, rules, app, name)
        self.assertEqual(read(NameRules(allow_special=True, allow_empty=True), "a/b?cache=no", ""), ("a/b", "", {}))

    def test_what_the_log_shows(self) -> None:
        self.assertEqual(NameRules().app("channel/key").shown, "channel")
        self.assertEqual(NameRules(allow_special=True).app("channel/key").shown, "channel/…")

    @given(texts(), texts())
    def test_no_form_lets_a_forbidden_character_through(self, app: str, name: str) -> None:
        for rules in ALL_RULES:
            try:
                found = read(rules, app, name)
            except BadName:
                continue
            for part in found.channel, found.key:
                bad = set(part) & set(">|\n") if rules.allow_special else set(part) - PLAIN
                self.assertFalse(bad)
                self.assertLessEqual(len(part), rules.max_length)
                self.assertTrue(part or rules.allow_empty)

    @given(texts(), texts())
    def test_the_ordinary_form_keeps_its_meaning(self, app: str, name: str) -> None:
        for rules in ALL_RULES:
            ordinary = before(rules, app, name)
            if ordinary is not None:
                found = read(rules, app, name)
                self.assertEqual(found[:2], ordinary)
                self.assertEqual(found, read(rules, ordinary[0], name))  # whatever query the app has

    @given(texts(), texts())
    def test_what_was_read_reads_the_same_again(self, app: str, name: str) -> None:
        for rules in ALL_RULES:
            try:
                channel, key, _ = read(rules, app, name)
            except BadName:
                continue
            self.assertEqual(read(rules, channel, key)[:2], (channel, key))


class TextTests(SynchronousTestCase):
    def test_duration(self) -> None:
        for seconds, text in (
            (0, "0.0 s"),
            (3.21, "3.2 s"),
            (60, "1m00s"),
            (245.9, "4m05s"),
            (3600, "1h00m00s"),
            (7445, "2h04m05s"),
            (360000, "100h00m00s"),
        ):
            self.assertEqual(duration(seconds), text)

    def test_amount(self) -> None:
        for size, text in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345_678, "12.3 MB"),
            (5 * 10**9, "5.0 GB"),
            (5 * 10**15, "5000.0 TB"),
        ):
            self.assertEqual(amount(size), text)
