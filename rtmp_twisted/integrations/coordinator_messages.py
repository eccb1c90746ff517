"""Text messages between this server and a coordinator: `parse` reads them, `serialise` writes them. Pure.

A message is a first line, its type; then ``Name: value`` lines; then optionally an empty line and a body.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from rtmp_twisted.integrations.validation import has_control_characters

MAX_MESSAGE = 64 * 1024
"""Longest message, in bytes, that is accepted."""

MAX_PARAMETERS = 64
"""Most parameters that a message may have."""

_BLANKS = " \t\r"


class MalformedMessage(Exception):
    """The message cannot be parsed; the exception's text says why."""


@frozen
class CoordinatorMessage:
    """``type`` is in upper case, the names in ``parameters`` are in lower case. Values may be secret (a stream key)."""

    type: str
    parameters: Mapping[str, str] = field(factory=dict, repr=False)
    body: str = field(default="", repr=False)

    def get(self, name: str) -> str:
        """Returns the value of the parameter ``name`` (in any case), or an empty text if the message has none."""
        return self.parameters.get(name.lower(), "")


def parse(text: str) -> CoordinatorMessage:
    """Parses one message. Raises `MalformedMessage`.

    Lines end in LF or CRLF. Blanks around names and values are removed. Of several parameters with one name, the
    last counts. A line without a colon is skipped.
    """
    if len(text) > MAX_MESSAGE:
        raise MalformedMessage(f"{len(text)} characters")
    head, body = _split(text)
    first, *lines = head
    kind = first.strip(_BLANKS).upper()
    if not kind:
        raise MalformedMessage("no type")
    if len(lines) > MAX_PARAMETERS:
        raise MalformedMessage("too many parameters")
    parameters: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            parameters[name.strip(_BLANKS).lower()] = value.strip(_BLANKS)
    return CoordinatorMessage(kind, parameters, body)


def _split(text: str) -> tuple[list[str], str]:
    """Returns the lines before the first empty line, and the text after it.

    Stops after one line more than a message may have.
    """
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
    """Returns the message as text. Raises ValueError if a value has a control character, which could end its line."""
    lines = [kind]
    for name, value in (parameters or {}).items():
        if has_control_characters(value):
            raise ValueError(f"{name} has a control character")
        lines.append(f"{name}: {value}")
    return "\n".join(lines)
