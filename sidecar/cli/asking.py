"""Arguments of the commands that ask a running sidecar what it would do, or how it is: ``status``, ``diff``."""

from __future__ import annotations

import argparse
from typing import Any, Final

from sidecar.cli.arguments import add_admin

_DIFF: Final = """\
examples:
  sidecar diff sidecar.yaml                        what a reload would change in the sidecar on this host
  sidecar diff - --admin 10.0.0.7:15000 < new.yaml
  sidecar diff sidecar.yaml --json | jq .refused   for machines

Nothing is changed, and secrets are not compared. `curl -X POST localhost:15000/reload?dry_run=1` asks the same about
the file that the sidecar was started with, as it is now on its host.

exit codes: 0 a reload would change nothing; 1 it would change something; 2 the file is wrong, or usage;
            3 a reload would be refused; 4 the sidecar cannot be asked
"""


def add_parsers(commands: Any) -> None:
    """Add the commands."""
    status = commands.add_parser(
        "status",
        help="ask a running sidecar how it is",
        description="How a running sidecar is, and what becomes of its traffic, as a table.",
        epilog="exit codes: 0 ready, and not unhealthy; 1 it is not, or cannot be asked; 2 usage",
    )
    add_admin(status)
    status.set_defaults(command=_status)

    diff = commands.add_parser(
        "diff",
        help="what a reload with a file would change in a running sidecar",
        description="What a reload with this file would change in a running sidecar, key by key, or why it would be "
        "refused.",
        epilog=_DIFF,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diff.add_argument("file", metavar="FILE", help="the file; - for standard input")
    diff.add_argument("--json", action="store_true", help="as one JSON object")
    _add_source(diff)
    diff.set_defaults(command=_diff)


def _add_source(parser: Any) -> None:
    add_admin(parser)
    parser.add_argument(
        "--token-file", metavar="FILE", default="", help="its admin token (default: SIDECAR_ADMIN_TOKEN)"
    )


def _status(options: argparse.Namespace) -> int:
    from sidecar.cli.status import show_status

    return show_status(options.admin)


def _diff(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.cli.rehearsal import diff

    return diff(options.file, options.admin, options.token_file, as_json=options.json)
