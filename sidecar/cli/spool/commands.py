"""What ``sidecar spool`` does. Each command returns its exit code."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sidecar.cli.admin_client import Admin, CommandError, RefusedError, token
from sidecar.cli.spool import text
from sidecar.cli.spool.source import Files, Remote, Source, Which, chosen, names, spools
from sidecar.cli.status import printable

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2


def status(options: argparse.Namespace) -> int:
    with _telling() as told:
        lines: list[str] = []
        for source in _all(options):
            state = source.state()
            told.code = max(told.code, FAILED if state.get("problem") else DONE)
            lines += ["", *text.status_lines(source.name, state, _colour())]
        print("\n".join(lines[1:]))
    return told.code


def listing(options: argparse.Namespace) -> int:
    with _telling() as told, _source(options) as source:
        which = Which(options.reason, options.exchange)
        found, following = source.page(which, options.after, options.limit)
        total = source.state()["dead_letters"]["messages"]
        if found:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
            print("\n".join(text.list_lines(found, width, _colour())))
        some = which != Which() or bool(options.after)
        print(text.footer(len(found), total, following, some), file=sys.stderr)
    return told.code


def show(options: argparse.Namespace) -> int:
    with _telling() as told, _source(options) as source:
        print("\n".join(text.letter_lines(source.show(options.id), _colour())))
    return told.code


def export(options: argparse.Namespace) -> int:
    with _telling() as told, _source(options) as source:
        for piece in source.export(Which(options.reason, options.exchange), options.after, options.limit):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return told.code


def replay(options: argparse.Namespace) -> int:
    problem = _unclear(options)
    if problem:
        return _misused(problem)
    with _telling() as told, _source(options) as source:
        if options.ids:
            count = _each(options.ids, source.replay, told)
        else:
            count = source.replay_all(Which(options.reason, options.exchange))
        if count or told.code == DONE:
            print(f"{text.letters(count)} put into the spool of {printable(source.name)} once more")
    return told.code


def drop(options: argparse.Namespace) -> int:
    problem = _unclear(options)
    if problem:
        return _misused(problem)
    with _telling() as told, _source(options) as source:
        if options.ids:
            count = _each(options.ids, source.drop, told)
        else:
            if not options.yes:
                if not sys.stdin.isatty():
                    return _misused("there is nobody to ask whether that is meant; say --yes")
                if not _sure(source, options):
                    print("nothing was dropped", file=sys.stderr)
                    return FAILED
            count = source.drop_all(Which(options.reason, options.exchange))
        if count or told.code == DONE:
            print(f"{text.letters(count)} dropped")
    return told.code


def _unclear(options: argparse.Namespace) -> str:
    some = options.all or options.reason or options.exchange is not None
    if options.ids and some:
        return "either numbers, or --all, --reason and --exchange; not both"
    if not options.ids and not some:
        return "say which: numbers, or --all, or some by --reason and --exchange"
    return ""


def _misused(problem: str) -> int:
    print(f"sidecar spool: {problem}", file=sys.stderr)
    return MISUSED


def _each(ids: Sequence[int], change: Callable[[int], None], told: _Told) -> int:
    """Every one by itself; those that cannot be are told of, and the rest is done. How many were."""
    count = 0
    for number in ids:
        try:
            change(number)
            count += 1
        except RefusedError as error:
            told.of(error)
    return count


def _sure(source: Source, options: argparse.Namespace) -> bool:
    if options.reason or options.exchange is not None:
        parts = [f"that died of {options.reason}"] if options.reason else []
        parts += [f"to {text.exchange(options.exchange)}"] if options.exchange is not None else []
        what = f"all dead letters of {source.name} " + " ".join(parts)
    else:
        dead = source.state()["dead_letters"]
        by = ", ".join(f"{reason}: {count}" for reason, count in dead["reasons"].items())
        what = f"{text.letters(dead['messages'])} of {source.name}" + (f" ({by})" if by else "")
    print(f"Drop {printable(what)}? Nothing brings them back. [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# -- sources and errors ------------------------------------------------------------------------------------------------


class _Told:
    """What the exit code is going to be."""

    def __init__(self) -> None:
        self.code = DONE

    def of(self, error: CommandError) -> None:
        print(f"sidecar spool: {printable(str(error))}", file=sys.stderr)
        self.code = FAILED


@contextmanager
def _telling() -> Iterator[_Told]:
    """Say what goes wrong, in a line."""
    told = _Told()
    try:
        yield told
    except CommandError as error:
        told.of(error)
    except (LookupError, TypeError, ValueError, AttributeError):
        told.of(CommandError("the answer makes no sense; is that a sidecar of another version?"))


@contextmanager
def _source(options: argparse.Namespace) -> Iterator[Source]:
    """The spool that is meant."""
    if options.path:
        folder, found = names(Path(options.path))
        with Files(folder, chosen(found, options.upstream)) as files:
            yield files
        return
    admin = Admin(options.admin, token(options.token_file))
    yield Remote(admin, chosen([spool.name for spool in spools(admin)], options.upstream))


def _all(options: argparse.Namespace) -> Iterator[Source]:
    """The spool that is meant, or one after the other."""
    if options.path:
        folder, found = names(Path(options.path))
        for name in _some(found, options):
            with Files(folder, name) as files:
                yield files
    else:
        admin = Admin(options.admin, token(options.token_file))
        for name in _some([spool.name for spool in spools(admin)], options):
            yield Remote(admin, name)


def _some(found: Sequence[str], options: argparse.Namespace) -> Sequence[str]:
    return found if found and not options.upstream else [chosen(found, options.upstream)]


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "status": status,
    "list": listing,
    "show": show,
    "replay": replay,
    "drop": drop,
    "export": export,
}
