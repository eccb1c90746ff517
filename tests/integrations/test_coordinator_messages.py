from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.integrations.coordinator_messages import (
    MAX_MESSAGE,
    MAX_PARAMETERS,
    MalformedMessage,
    parse,
    serialise,
)

ACCEPT = {"request-id": "1", "stream-channel": "tv", "stream-id": "a:b"}

# texts that mean the same PUBLISH-ACCEPT
SAME = [
    "PUBLISH-ACCEPT\nRequest-ID: 1\nStream-Channel: tv\nStream-ID: a:b",
    "PUBLISH-ACCEPT\nRequest-ID: 1\nStream-Channel: tv\nStream-ID: a:b\n",
    "PUBLISH-ACCEPT\nRequest-ID:1\nStream-Channel:tv\nStream-ID:a:b",
    "PUBLISH-ACCEPT\r\nRequest-ID: 1\r\nStream-Channel: tv\r\nStream-ID: a:b\r\n",
    "PUBLISH-ACCEPT\nrequest-id: 1\nSTREAM-CHANNEL: tv\nsTREAM-iD: a:b",
    "  PUBLISH-ACCEPT \n Request-ID\t:\t 1 \n\tStream-Channel :   tv\t\nStream-ID  :a:b  \r\n",
    "publish-accept\nRequest-ID: 1\nStream-Channel: tv\nStream-ID: a:b",
    "PUBLISH-ACCEPT\nStream-ID: a:b\nStream-Channel: tv\nRequest-ID: 1\n\nRequest-ID: 2\n",
    "PUBLISH-ACCEPT\nRequest-ID: 1\nStream-Channel: tv\nStream-ID: a:b\n\n",
    "PUBLISH-ACCEPT\nRequest-ID: 0\nRequest-ID: 1\nno colon\nStream-Channel: tv\nStream-ID: a:b\n",
]


class ParseTests(SynchronousTestCase):
    def test_forms_of_one_message(self) -> None:
        for text in SAME:
            message = parse(text)
            self.assertEqual((message.type, message.parameters), ("PUBLISH-ACCEPT", ACCEPT), repr(text))

    def test_get(self) -> None:
        message = parse(SAME[0])
        self.assertEqual(message.get("Stream-ID"), "a:b")
        self.assertEqual(message.get("Nothing"), "")

    def test_without_parameters(self) -> None:
        for text in ["HEARTBEAT", "HEARTBEAT\n", "HEARTBEAT\r\n", "HEARTBEAT\n\n", "HEARTBEAT\n\nbody"]:
            self.assertEqual((parse(text).type, parse(text).parameters), ("HEARTBEAT", {}))

    def test_body(self) -> None:
        self.assertEqual(parse("ERROR\nError-Code: 1\n\na\n\nb: c\n").body, "a\n\nb: c\n")
        self.assertEqual(parse("ERROR\r\nError-Code: 1\r\n\r\nbody").body, "body")
        self.assertEqual(parse("ERROR\nError-Code: 1").body, "")

    def test_malformed(self) -> None:
        many = "A" + "\nn: v" * (MAX_PARAMETERS + 1)
        for text in ["", "\n", "\r\n\r\n", " \nName: value", "x" * (MAX_MESSAGE + 1), many, "A" + "\nb" * 30_000]:
            with self.assertRaises(MalformedMessage):
                parse(text)

    def test_longest(self) -> None:
        self.assertEqual(parse("X" * MAX_MESSAGE).type, "X" * MAX_MESSAGE)

    def test_most_parameters(self) -> None:
        text = "A" + "".join(f"\nn{number}: v" for number in range(MAX_PARAMETERS))
        self.assertEqual(len(parse(text).parameters), MAX_PARAMETERS)

    @given(st.text(alphabet=st.sampled_from("AB:\r\n \t\x00ü"), max_size=60) | st.text())
    def test_any_text(self, text: str) -> None:
        """Either parses or raises MalformedMessage. What was parsed can be serialised and parsed again."""
        try:
            message = parse(text)
            again = parse(serialise(message.type, message.parameters))
        except (MalformedMessage, ValueError):
            return
        self.assertEqual((again.type, dict(again.parameters)), (message.type, dict(message.parameters)))


class SerialiseTests(SynchronousTestCase):
    def test_form(self) -> None:
        self.assertEqual(serialise("HEARTBEAT"), "HEARTBEAT")
        text = serialise("PUBLISH-END", {"Stream-Channel": "tv", "Stream-ID": "a: b"})
        self.assertEqual(text, "PUBLISH-END\nStream-Channel: tv\nStream-ID: a: b")

    def test_no_line_can_be_smuggled_in(self) -> None:
        for value in ["a\nb", "a\rb", "\x0b", "\x85", "\x00"]:
            with self.assertRaises(ValueError) as caught:
                serialise("PUBLISH-REQUEST", {"Stream-Key": value})
            self.assertNotIn(value, str(caught.exception))
