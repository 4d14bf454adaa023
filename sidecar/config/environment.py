"""``${VAR}`` and ``${VAR:-default}`` in the file's values.

Substitution happens in single scalars after the YAML was parsed, so a variable's value can never add keys or change
the structure of the file. Names and defaults follow the POSIX shell (Shell Command Language, 2.6.2): with ``:-``,
a variable that is set but empty takes the default too. ``$${`` stands for a literal ``${``; a ``$`` before
anything else is itself.

There is one trap: ``{``, ``}`` and ``,`` end a plain scalar inside ``{a: b}`` and ``[a]``, so ``{token: ${TOKEN:-}}``
is not YAML as it stands. :func:`shield` therefore hides well-formed variables from the YAML parser, character by
character (lines and columns stay), and :func:`unshield` brings them back in each scalar.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

#: The variable that may hold the text of a configuration, and the file that is read else, unless one is named.
CONFIG: Final = "SIDECAR_CONFIG"
DEFAULT_FILE: Final = "/etc/sidecar/sidecar.yaml"
#: Where the ASCII characters of a shielded variable go: a private-use plane, which YAML accepts everywhere.
_PLANE = 0x10F000
_SHIELD = {code: _PLANE + code for code in range(0x20, 0x7F)}
_UNSHIELD = {shielded: code for code, shielded in _SHIELD.items()}

# A default with quotes or backslashes is left alone: in a quoted scalar the parser has to see them first.
_SHIELDED = re.compile(r"\$?\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^{}\"'\\\n\r]*)?\}")

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")


class BadVariable(ValueError):
    """A ``${`` that cannot be substituted. The message names the variable, never a value."""


class UnsetVariable(BadVariable):
    """A variable without a value and without a default."""


def shield(text: str) -> str:
    """``text`` with every well-formed variable made opaque to the YAML parser."""
    return _SHIELDED.sub(lambda match: match[0].translate(_SHIELD), text)


def unshield(text: str) -> str:
    """The reverse of :func:`shield`."""
    return text.translate(_UNSHIELD)


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with its variables replaced. Raises :class:`BadVariable`."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            raise BadVariable("has a ${ without a variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${")
        found = environ.get(name)
        if default is not None:
            return found or default
        if found is None:
            raise UnsetVariable(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return found

    return _VARIABLE.sub(value, text)


def default_file() -> str:
    """Where the configuration is when nobody says so."""
    return f"env:{CONFIG}" if os.environ.get(CONFIG) else DEFAULT_FILE
