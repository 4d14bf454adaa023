"""``python -m sidecar.cli.man_page``: the manual page sidecar(1), in roff, made from the commands themselves.

setup.py has it made for packages, where nothing but the standard library is at hand; so nothing else is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from sidecar import __version__
from sidecar.cli.tree import Argument, Command, read

#: What several commands read from the environment.
_ENVIRONMENT: Final = (
    ("SIDECAR_ADMIN", "The admin API of the sidecar that is asked, in place of --admin."),
    ("SIDECAR_ADMIN_TOKEN", "Its token, in place of --token-file."),
    ("NAME", "What a configuration file names as ${NAME}."),
)
_SEE_ALSO: Final = "sidecar schema --text prints every key of the configuration file, sidecar COMMAND --help a command."


def page(root: Command) -> str:
    """Return the page."""
    return "\n".join(_lines(root)) + "\n"


def _lines(root: Command) -> Iterator[str]:
    yield f'.TH SIDECAR 1 "" "sidecar {_escaped(__version__)}" "User Commands"'
    yield ".nh"  # names of options are not hyphenated
    yield ".ad l"
    yield from _section("NAME", "sidecar - a proxy beside each service")
    yield from _section("SYNOPSIS")
    yield from (".B sidecar COMMAND [ARGUMENT ...]", ".br", r".B sidecar \-\-version")
    yield from _section("DESCRIPTION", root.description)
    yield from _options(root)
    yield from _section("COMMANDS")
    yield from (line for command in root.all() if command is not root for line in _command(command))
    yield from _section("ENVIRONMENT")
    for name, text in _ENVIRONMENT:
        yield from (".TP", f".B {_escaped(name)}", _escaped(text))
    yield from _section("EXAMPLES, EXIT STATUS")
    yield from _epilog(root)
    yield from _section("SEE ALSO", _SEE_ALSO)


def _section(name: str, text: str = "") -> list[str]:
    return [f'.SH "{name}"', *([_escaped(text)] if text else [])]


def _command(command: Command) -> Iterator[str]:
    yield f'.SS "{_escaped(command.path)}"'
    yield f".B {_escaped(command.usage)}"
    yield ".PP"
    yield _escaped(command.description or command.help)
    yield from _options(command)
    yield from _epilog(command)


def _options(command: Command) -> Iterator[str]:
    for it in command.arguments:
        if it.flags != ("-h", "--help"):
            yield from (".TP", f".B {_escaped(_called(it))}", _escaped(it.help) or r"\&")


def _called(it: Argument) -> str:
    return ", ".join(it.flags) + f" {it.metavar}" if it.flags and it.metavar else ", ".join(it.flags) or it.metavar


def _epilog(command: Command) -> Iterator[str]:
    if "\n" not in command.epilog:  # a sentence; else its lines are meant as they are
        yield from (".PP", _escaped(command.epilog)) if command.epilog else ()
    else:
        yield from (".PP", ".nf", *(_escaped(line) for line in command.epilog.rstrip().splitlines()), ".fi")


def _escaped(text: str) -> str:
    """Text that has no meaning to roff: no escapes, no requests, and ``-`` is what a shell takes for it."""
    text = " ".join(text.split("\n")).replace("\\", r"\e").replace("-", r"\-")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return rf"\&{text}" if text.startswith((".", "'")) else text


def text() -> str:
    """Return the page of this sidecar."""
    from sidecar.cli.main import commands

    return page(read(commands()))


if __name__ == "__main__":
    sys.stdout.write(text())
