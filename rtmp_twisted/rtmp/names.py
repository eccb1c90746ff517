"""Channels and keys as clients write them: what counts as one, and the query string behind it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from attrs import frozen

MAX_QUERY_FIELDS = 32
"""Fields read from a query string; more make it count as empty."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]*\Z")
_SPECIAL = re.compile(r"[^>|\n]*\Z")


class BadName(Exception):
    """A channel or key that the rules do not allow; ``str(error)`` says why, without the name itself."""


@frozen
class NameRules:
    """``max_length`` in characters; the other two are ID_ALLOW_EMPTY and ID_ALLOW_SPECIAL_CHARACTERS."""

    max_length: int = 128
    allow_empty: bool = False
    allow_special: bool = False

    def split(self, text: str) -> tuple[str, dict[str, str]]:
        """The name, which ends at the first ``?``, and the fields of the query string behind it.

        Raises BadName where the name is not allowed.
        """
        name, _, query = text.partition("?")
        if not name and not self.allow_empty:
            raise BadName("it is empty")
        if len(name) > self.max_length:
            raise BadName(f"it has {len(name)} characters, where {self.max_length} are allowed")
        if self.allow_special:
            if not _SPECIAL.match(name):
                raise BadName("it has a '>', '|' or line feed")
        elif not _PLAIN.match(name):
            raise BadName("it has characters other than letters, digits, '-' and '_'")
        try:
            return name, dict(parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS))
        except ValueError:
            return name, {}
