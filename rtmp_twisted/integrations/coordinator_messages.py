"""The text messages between this server and a coordinator: text to `Message` and back. Pure.

A message is a first line, its type; then ``Name: value`` lines; then optionally an empty line and a body.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from rtmp_twisted.integrations.validation import has_control_characters

#: Longest message, in bytes, that is taken.
MAX_MESSAGE = 64 * 1024

#: Most parameters of a message.
MAX_PARAMETERS = 64

_BLANKS = " \t\r"


class MalformedMessage(Exception):
    """A message that cannot be read; the text says why."""


@frozen
class Message:
    """``type`` is in upper case. ``parameters`` has the names in lower case; they may hold a stream key."""

    type: str
    parameters: Mapping[str, str] = field(factory=dict, repr=False)
    body: str = field(default="", repr=False)

    def get(self, name: str) -> str:
        """The value of ``name`` in whatever case, empty where the message has none."""
        return self.parameters.get(name.lower(), "")


def parse(text: str) -> Message:
    """Read one message; raises `MalformedMessage`.

    Lines end in LF or CRLF; blanks around names and values do not count; the last of several equal names does;
    a line without a colon says nothing.
    """
    if len(text) > MAX_MESSAGE:
        raise MalformedMessage(f"{len(text)} characters")
    head, body = _split(text)
    first, *lines = head
    kind = first.strip(_BLANKS).upper()
    if not kind:
        raise MalformedMessage("no type")
    if len(lines) > MAX_PARAMETERS:
        raise MalformedMessage(f"{len(lines)} parameters")
    parameters: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            parameters[name.strip(_BLANKS).lower()] = value.strip(_BLANKS)
    return Message(kind, parameters, body)


def _split(text: str) -> tuple[list[str], str]:
    """The lines before the first empty one (or all), and what follows it."""
    head: list[str] = []
    rest = text
    while rest:
        line, _, rest = rest.partition("\n")
        if head and not line.strip(_BLANKS):
            return head, rest
        head.append(line)
        if len(head) > MAX_PARAMETERS + 1:
            break
    return head or [""], ""


def serialise(kind: str, parameters: Mapping[str, str] | None = None) -> str:
    """A message as text; raises ValueError where a value has a control character, which could end its line."""
    lines = [kind]
    for name, value in (parameters or {}).items():
        if has_control_characters(value):
            raise ValueError(f"{name} has a control character")
        lines.append(f"{name}: {value}")
    return "\n".join(lines)
