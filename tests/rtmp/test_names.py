"""rtmp_twisted.rtmp.names and text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.names import MAX_QUERY_FIELDS, BadName, NameRules


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
            self.assertEqual(rules.split(text), (name, query), text)

    def test_forbidden(self) -> None:
        rules = NameRules(max_length=8)
        for text in (
            *("", "?cache=no", "123456789", "a b", "a/b", "..", "a.b", "*", "a|b", "a>b", "a\nb", "a\n", "\n", "a\0b"),
            *("ключ", "kéy", "٣", "a%20b", "a\N{ZERO WIDTH SPACE}"),
        ):
            error = self.assertRaises(BadName, rules.split, text)
            if text:
                self.assertNotIn(text, str(error))

    def test_special_characters(self) -> None:
        rules = NameRules(allow_special=True)
        for text in "a b", "a/b", "ключ", "*", "a\rb", "a%20b", "a;b":
            self.assertEqual(rules.split(text), (text, {}))
        for text in "a|b", "a>b", "a\nb", "a\n", "":
            self.assertRaises(BadName, rules.split, text)

    def test_empty(self) -> None:
        rules = NameRules(allow_empty=True)
        self.assertEqual(rules.split(""), ("", {}))
        self.assertEqual(rules.split("?cache=no"), ("", {"cache": "no"}))

    def test_length_is_in_characters(self) -> None:
        rules = NameRules(max_length=4, allow_special=True)
        self.assertEqual(rules.split("ключ")[0], "ключ")
        self.assertRaises(BadName, rules.split, "ключи")

    def test_too_many_fields(self) -> None:
        fields = "&".join(f"f{n}=1" for n in range(MAX_QUERY_FIELDS))
        self.assertEqual(len(NameRules().split(f"key?{fields}")[1]), MAX_QUERY_FIELDS)
        self.assertEqual(NameRules().split(f"key?{fields}&cache=no"), ("key", {}))

    @given(st.text(max_size=200))
    def test_any_text(self, text: str) -> None:
        for rules in NameRules(), NameRules(allow_empty=True, allow_special=True):
            try:
                name, _ = rules.split(text)
            except BadName:
                continue
            self.assertEqual(name, text.partition("?")[0])
            self.assertFalse(set(name) & set(">|\n"))


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
