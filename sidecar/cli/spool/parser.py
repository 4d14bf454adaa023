"""The arguments of ``sidecar spool``; what they lead to is imported only then."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from sidecar.cli.arguments import add_admin

MISUSED: Final = 2

#: Letters that are listed unless told otherwise, and at most.
LISTED: Final = 50
MOST: Final = 1000

_DESCRIPTION: Final = """\
Publishes that the broker could not take are kept in the spool, and delivered later. What it refuses for good becomes a
dead letter, with the reason: look at it, mend what was wrong, and replay it, or drop it.
"""
_EPILOG: Final = """\
examples:
  sidecar spool status                       what waits for the broker, and why messages have died
  sidecar spool list --reason expired        those that were too old when the broker was back
  sidecar spool show 17                      one of them: properties, headers, body
  sidecar spool replay 17 18                 try to deliver these two once more
  sidecar spool replay --exchange ai.tasks   and all that were published to that exchange
  sidecar spool export > dead.jsonl          everything, a line of JSON each
  sidecar spool drop --all                   forget all; asks first
  sidecar spool list --path /var/lib/sidecar/spool   the files of a sidecar that is stopped

exit codes: 0 done; 1 it could not be, or not all of it; 2 usage
"""
_TOKEN_HELP: Final = "a file with the admin token, if there is one (or SIDECAR_ADMIN_TOKEN in the environment)"


def add_parser(commands: Any) -> None:
    """``spool`` and its own commands."""
    parser = commands.add_parser(
        "spool",
        help="look at dead letters, replay or drop them",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=lambda _: _help(parser))
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")

    status = actions.add_parser("status", help="what is kept, and how many dead letters there are")
    _source_options(status)
    status.set_defaults(command=_command, action="status")

    listed = actions.add_parser("list", help="dead letters, oldest first")
    _which_options(listed)
    listed.add_argument("--after", metavar="ID", type=_number, default=0, help="only those behind this number")
    listed.add_argument("--limit", metavar="N", type=_limit, default=LISTED, help="at most so many (%(default)s)")
    _source_options(listed)
    listed.set_defaults(command=_command, action="list")

    show = actions.add_parser("show", help="one dead letter: properties, headers, body")
    show.add_argument("id", metavar="ID", type=_number, help="its number; see `sidecar spool list`")
    _source_options(show)
    show.set_defaults(command=_command, action="show")

    replay = actions.add_parser(
        "replay",
        help="try to deliver dead letters once more",
        description="Puts them behind the other messages of the same exchange, as if they came now. The sidecar has to "
        "run. What caused their death should be mended before.",
    )
    _many_options(replay)
    _source_options(replay, files=False)
    replay.set_defaults(command=_command, action="replay")

    drop = actions.add_parser("drop", help="forget dead letters", description="Forgets them; nothing brings them back.")
    _many_options(drop)
    drop.add_argument("--yes", action="store_true", help="do not ask")
    _source_options(drop)
    drop.set_defaults(command=_command, action="drop")

    export = actions.add_parser(
        "export",
        help="print dead letters with everything, as JSON lines",
        description="Prints dead letters, a line of JSON each, with all of the body: text, or base64 when it is none "
        "or large (more than 1 MiB).",
    )
    _which_options(export)
    export.add_argument("--after", metavar="ID", type=_number, default=0, help="only those behind this number")
    export.add_argument("--limit", metavar="N", type=_limit, default=None, help="at most so many (all)")
    _source_options(export)
    export.set_defaults(command=_command, action="export")


def _source_options(parser: argparse.ArgumentParser, files: bool = True) -> None:
    group = parser.add_argument_group("whose")
    group.add_argument("--upstream", metavar="NAME", default="", help="the AMQP upstream, if several have a spool")
    either = group.add_mutually_exclusive_group()
    add_admin(either)
    if files:
        files_help = "the files of a sidecar that is stopped: amqp.spool.path"
        either.add_argument("--path", metavar="FOLDER", default="", help=files_help)
    else:
        either.add_argument("--path", type=_no_files, default="", help=argparse.SUPPRESS)
    group.add_argument("--token-file", metavar="FILE", default="", help=_TOKEN_HELP)


def _which_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="REASON", default="", help="only those that died of this")
    parser.add_argument(
        "--exchange", metavar="NAME", default=None, help="only those published to this exchange ('': the default one)"
    )


def _many_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=_number, nargs="*", help="their numbers; see `sidecar spool list`")
    _which_options(parser)
    parser.add_argument("--all", action="store_true", help="all of them")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a dead letter")
    return int(text)


def _no_files(text: str) -> str:
    if not text:
        return text  # the default
    raise argparse.ArgumentTypeError("what is to be delivered needs a sidecar that runs (--admin URL)")


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST}")
    return int(text)


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return MISUSED


def _command(options: argparse.Namespace) -> int:
    from sidecar.cli.spool.commands import COMMANDS

    return COMMANDS[options.action](options)
