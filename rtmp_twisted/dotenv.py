r"""The ``.env`` file: what it sets. Used by settings.py.

The syntax is the common part of what godotenv and dotenvy read, the loaders of the servers that this one replaces:

- A line is ``NAME=value``, optionally with ``export`` before the name. Blank lines and lines that begin with ``#`` are
  skipped. When two lines set one name, the later line counts.
- A value in single quotes is taken literally. A value in double quotes knows the escapes ``\n \r \t \" \\ \$``. A
  value without quotes ends before a ``#`` that follows a blank; ``\$`` is its only escape.
- Outside single quotes, ``$NAME`` and ``${NAME}`` stand for a variable of the environment or of an earlier line. Where
  both set it, the environment counts, as it does for the settings (and in dotenvy; godotenv prefers the file).
- Where nothing sets that variable, the ``$`` is kept, and a warning says so. Both loaders would put in nothing, which
  silently shortens a password that contains a ``$``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import Factory, define

_ASSIGNMENT: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*", re.DOTALL)
_QUOTED: Final = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""", re.DOTALL)
_REFERENCE: Final = r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_.]*)\})"
_IN_DOUBLE_QUOTES: Final = re.compile(rf"\\(?P<escaped>.)|{_REFERENCE}|(?P<unknown>\$[0-9{{])", re.DOTALL)
_UNQUOTED: Final = re.compile(rf"\\(?P<escaped>\$)|{_REFERENCE}|(?P<unknown>\$[0-9{{])")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


@define
class Dotenv:
    """What a ``.env`` file sets. Neither ``mistakes`` nor ``warnings`` ever repeats a part of a value."""

    values: dict[str, tuple[str, int]] = Factory(dict)
    """Each variable's value, and the number of its line."""

    mistakes: list[str] = Factory(list)
    """One line for each line of the file that cannot be understood, or one for the whole file."""

    warnings: list[str] = Factory(list)

    referenced: set[str] = Factory(set)
    """The variables that other lines refer to with ``$``."""

    @classmethod
    def read(cls, path: Path, environ: Mapping[str, str]) -> Dotenv:
        """Reads the file. It sets nothing if there is no such file."""
        found = cls()
        try:
            text = path.read_text("utf-8-sig")
        except FileNotFoundError:
            return found
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            found.mistakes.append(f"{path}: cannot be read: {reason}")
            return found
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                found._add(path, number, line, environ)
        return found

    def _add(self, path: Path, number: int, line: str, environ: Mapping[str, str]) -> None:
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is None:
            self.mistakes.append(f"{path}, line {number}: not of the form NAME=value")
            return
        name, text = assignment.groups()
        if not text.startswith(("'", '"')):
            value = self._expand(_UNQUOTED, re.split(r"(?:^|\s+)#", text, maxsplit=1)[0], name, number, environ)
        else:
            quoted = _QUOTED.fullmatch(text)
            if quoted is None:
                self.mistakes.append(f"{path}, line {number}: {name}: a quote is not closed, or text follows it")
                return
            in_double_quotes, in_single_quotes = quoted.groups()
            if in_double_quotes is None:
                value = in_single_quotes
            else:
                value = self._expand(_IN_DOUBLE_QUOTES, in_double_quotes, name, number, environ)
        self.values[name] = value, number

    def _expand(self, syntax: re.Pattern[str], text: str, name: str, number: int, environ: Mapping[str, str]) -> str:
        kept = False

        def replace(match: re.Match[str]) -> str:
            nonlocal kept
            if match["escaped"]:
                return _ESCAPES.get(match["escaped"], match["escaped"])
            variable = match[2] or match[3]
            if variable:
                self.referenced.add(variable)
                # An empty variable of the environment counts as not given, here as for the settings.
                if environ.get(variable):
                    return environ[variable]
                if variable in self.values:
                    return self.values[variable][0]
                if variable in environ:
                    return ""
            kept = True
            return match[0]

        value = syntax.sub(replace, text)
        if kept:
            line = f"{name} (.env, line {number}): the variable after a $ is not set, so the $ is kept as it is;"
            self.warnings.append(f"{line} if that is intended, write the value in single quotes, or \\$")
        return value
