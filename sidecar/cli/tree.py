"""The commands as data, read from the parser: what completion and the man page are made of."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Metavars that stand for something on the disk.
_FILES: Final = {"FILE", "COMPOSE", "FOLDER"}


class Argument(NamedTuple):
    """An option, or without flags an argument that goes by its place."""

    flags: tuple[str, ...]
    #: What its value is called, in brackets where it may be left out; empty: it has none.
    metavar: str
    help: str
    #: The only values there are; empty: any.
    choices: tuple[str, ...]

    @property
    def takes(self) -> bool:
        """Whether the next word is its value."""
        return bool(self.metavar) and not self.metavar.startswith("[")

    @property
    def is_file(self) -> bool:
        return self.metavar in _FILES


class Command(NamedTuple):
    """A command with what is below it."""

    #: How it is called: ``sidecar``, ``sidecar spool``, ``sidecar spool list``.
    path: str
    help: str
    usage: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition(" ")[2]

    @property
    def options(self) -> list[Argument]:
        return [it for it in self.arguments if it.flags]

    @property
    def places(self) -> list[Argument]:
        return [it for it in self.arguments if not it.flags]

    def all(self) -> Iterator[Command]:
        """This one and all below it, each before its own."""
        yield self
        for command in self.commands:
            yield from command.all()


def read(parser: argparse.ArgumentParser, path: str = "sidecar", help: str = "") -> Command:
    """Return what a parser takes. Which arguments it has is told by nothing public of argparse."""
    formatter = argparse.HelpFormatter(path, width=100_000)  # usage on one line, however wide the terminal is
    arguments: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            helps = {it.dest: it.help or "" for it in action._choices_actions}
            commands += [read(it, f"{path} {name}", helps.get(name, "")) for name, it in action.choices.items()]
        else:
            arguments.append(_argument(action, formatter))
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    usage = formatter.format_help().strip().removeprefix("usage: ")
    texts = (parser.description or "", parser.epilog or "")
    return Command(path, help, usage, *texts, tuple(arguments), tuple(commands))


def _argument(action: argparse.Action, formatter: argparse.HelpFormatter) -> Argument:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.nargs == 0:
        metavar = ""
    elif action.nargs == argparse.OPTIONAL and action.option_strings:
        metavar = f"[{metavar}]"
    text = formatter._expand_help(action) if action.help else ""
    choices = tuple(str(it) for it in action.choices or ())
    return Argument(tuple(sorted(action.option_strings, key=len)), metavar, text, choices)
