"""Arguments of the commands that ask a running sidecar what it would do, or how it is."""

from __future__ import annotations

import argparse
from typing import Any, Final

from sidecar.cli.arguments import add_admin, duration

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
_REHEARSE: Final = """\
examples:
  sidecar rehearse new.yaml                        had it run for the last hour: what would have been different
  sidecar rehearse - --admin 10.0.0.7:15000 < new.yaml
  sidecar rehearse new.yaml --json | jq .changed   for machines

The sidecar has a compact record of its requests (rehearsal.records). It replays them with the running settings, which
shows how far the answer can be trusted, and with those of the file. Nothing is sent and nothing is changed.
docs/rehearsal.md says what can be rehearsed, and what not.

exit codes: 0 nothing would have been different; 1 something would; 2 the file is wrong, or usage;
            3 the sidecar cannot use the file; 4 it cannot be asked
"""
_WHY: Final = """\
examples:
  sidecar why                                      the newest requests that did not simply go well
  sidecar why --upstream ollama --error timeout    those to one upstream, with one code
  sidecar why 4f0c2d…                              the story of one
  sidecar why 4f0c2d… --json | jq .cause           for machines

The id is the request's x-request-id, its own or one that the sidecar has made. Answers of the sidecar's own have it in
that header and in their JSON body; for those of the app, see the access log, or the list above.

exit codes: 0 told; 1 nothing is known of it, or the sidecar cannot be asked; 2 usage
"""

_DIAGNOSE: Final = """\
examples:
  sidecar diagnose                       everything, of the sidecar on this host
  sidecar diagnose tasks                 what is about the upstream tasks, beside the sidecar itself
  sidecar diagnose --json | jq '.findings[] | select(.result == "bad")'

  ✓ as it should be   ✗ not so: what was seen, and behind the arrow what to do next   – does not apply

The sidecar does the work, from where it stands: it connects to endpoints, asks HTTP servers OPTIONS *, and logs in at
brokers with its own credentials. Nothing is declared, published or changed. docs/diagnose.md has each check.

exit codes: 0 all is well; 1 something is not, or the sidecar cannot be asked; 2 usage, or there is no such upstream
"""

_TAP: Final = """\
examples:
  sidecar tap                             everything, until Ctrl-C
  sidecar tap --upstream ollama --status 5xx
  sidecar tap --error circuit_open --limit 10
  sidecar tap --json | jq -r .request_id  for machines: an object on a line each

No bodies, no header fields, no query strings. What is faster than it can be read is counted, not kept.

exit codes: 0 ended, or Ctrl-C; 1 the sidecar cannot be asked, or has broken off; 2 usage
"""

_MESH: Final = """\
examples:
  sidecar mesh                            who calls whom, as the sidecar on this host finds out; worst first
  sidecar mesh --admin 10.0.0.7:15000
  sidecar mesh --json | jq '.edges[] | select(.error_rate > 0.01)'

An edge is what the caller measured within the last 10 to 20 seconds. The sidecar asks the others that the registry
knows: those with a probes section, whose admin API can be reached and has the same token. docs/mesh.md has more.

exit codes: 0 told; 1 the sidecar cannot be asked; 2 usage
"""
_DRAIN: Final = """\
examples:
  sidecar drain && kill $APP              nothing comes in any more: now the app
  ExecStop=-/opt/sidecar/bin/sidecar drain    in the app's systemd unit

As SIGTERM, but it returns when nothing comes in any more. What the app dials is served until it has gone (drain.app at
most); then the sidecar ends, too. One without an inbound port has nothing to drain, and goes on. In a container without
sidecar, sidecar-probe drain does the same (docs/attach.md).

exit codes: 0 nothing comes in any more; 1 not in time, or it cannot be asked; 2 usage
"""
_TOP: Final = """\
examples:
  sidecar top                             the upstreams of the sidecar on this host, live; q ends it
  sidecar top --mesh                      every service of the mesh and who calls whom
  sidecar top --count 1 | less            once, plain

exit codes: 0 ended; 1 the sidecar cannot be asked; 2 usage
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
    _add_rehearse(commands)
    _add_why(commands)
    _add_diagnose(commands)
    _add_tap(commands)
    _add_mesh(commands)
    _add_drain(commands)


def _add_drain(commands: Any) -> None:
    drain = commands.add_parser(
        "drain",
        help="let what comes in finish, before the app is told to end",
        description="Have a running sidecar leave the registry, take no new requests and finish those under way.",
        epilog=_DRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drain.add_argument("--timeout", metavar="TIME", type=duration, default=60.0, help="wait so long (default: 60s)")
    _add_source(drain)
    drain.set_defaults(command=_drain)


def _add_mesh(commands: Any) -> None:
    mesh = commands.add_parser(
        "mesh",
        help="who calls whom, with rates, errors and latencies",
        description="The services of the mesh, and who calls whom, with what the callers measured.",
        epilog=_MESH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mesh.add_argument("--json", action="store_true", help="as one JSON object")
    _add_source(mesh)
    mesh.set_defaults(command=_mesh)
    top = commands.add_parser(
        "top",
        help="a running sidecar, or the mesh, live",
        description="What a sidecar's upstreams do, or the whole mesh, once a second.",
        epilog=_TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--mesh", action="store_true", help="the whole mesh, as the sidecar finds out")
    top.add_argument("--count", metavar="N", type=int, default=0, help="end after so many looks")
    _add_source(top)
    top.set_defaults(command=_top)


def _add_rehearse(commands: Any) -> None:
    rehearse = commands.add_parser(
        "rehearse",
        help="what would have been different in the last hour with another file",
        description="Replays what a running sidecar has recorded of the last hour with the settings of another file: "
        "what would have been rejected, admitted, tried again, answered otherwise or gone by another route.",
        epilog=_REHEARSE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rehearse.add_argument("file", metavar="FILE", help="the file; - for standard input")
    rehearse.add_argument("--json", action="store_true", help="as one JSON object")
    _add_source(rehearse)
    rehearse.set_defaults(command=_rehearse)


def _add_why(commands: Any) -> None:
    why = commands.add_parser(
        "why",
        help="why a request failed, was tried again, or was slow",
        description="Why a request went as it did: one sentence, what happened in order, and the setting that would "
        "change it. Without an id: the newest ones.",
        epilog=_WHY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    why.add_argument(
        "id",
        metavar="ID",
        nargs="?",
        default="",
        help="the request's id: its x-request-id, which errors of the sidecar's own have",
    )
    why.add_argument("--json", action="store_true", help="as one JSON object")
    why.add_argument("--upstream", metavar="NAME", default="", help="of the list: to this upstream only")
    why.add_argument("--error", metavar="CODE", default="", help="of the list: with this code only")
    why.add_argument("--limit", metavar="N", default="", help="of the list: so many, 50 by default")
    _add_source(why)
    why.set_defaults(command=_why)


def _add_diagnose(commands: Any) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="find out what is wrong with a running sidecar, and what to do next",
        description="Has a running sidecar look at everything that may be wrong: its file, registry, app, disk, clock "
        "and descriptors; and of each upstream whether endpoints are known, take connections and answer, breakers, "
        "ejections, and a broker's login.",
        epilog=_DIAGNOSE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diagnose.add_argument("upstream", metavar="UPSTREAM", nargs="?", default="", help="only this one")
    diagnose.add_argument("--json", action="store_true", help="as one JSON object")
    _add_source(diagnose)
    diagnose.set_defaults(command=_diagnose)


def _add_tap(commands: Any) -> None:
    tap = commands.add_parser(
        "tap",
        help="watch the exchanges of a running sidecar as they end",
        description="Exchanges as they end: how, what it was, to where, how long it took.",
        epilog=_TAP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tap.add_argument(
        "--upstream", metavar="NAME", default="", help="to this upstream only; the service's name: inbound"
    )
    tap.add_argument("--status", metavar="STATUS", default="", help="with this status only: 503, or 5xx")
    tap.add_argument("--error", metavar="CODE", default="", help="with this code of the sidecar's own only")
    tap.add_argument("--limit", metavar="N", default="", help="end after so many")
    tap.add_argument("--json", action="store_true", help="an object on a line each")
    _add_source(tap)
    tap.set_defaults(command=_tap)


def _add_source(parser: Any) -> None:
    add_admin(parser)
    parser.add_argument(
        "--token-file", metavar="FILE", default="", help="its admin token (default: SIDECAR_ADMIN_TOKEN)"
    )


def _status(options: argparse.Namespace) -> int:
    from sidecar.cli.status import show_status

    return show_status(options.admin)


def _drain(options: argparse.Namespace) -> int:
    from sidecar.cli.drain import drain

    return drain(options.admin, options.token_file, options.timeout)


def _diff(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.cli.diff import diff

    return diff(options.file, options.admin, options.token_file, as_json=options.json)


def _rehearse(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.cli.rehearse import rehearse

    return rehearse(options.file, options.admin, options.token_file, as_json=options.json)


def _why(options: argparse.Namespace) -> int:
    from sidecar.cli.why import why

    asked = {"upstream": options.upstream, "error": options.error, "limit": options.limit}
    return why(options.id, options.admin, options.token_file, asked, as_json=options.json)


def _diagnose(options: argparse.Namespace) -> int:
    from sidecar.cli.diagnose import diagnose

    return diagnose(options.upstream, options.admin, options.token_file, as_json=options.json)


def _tap(options: argparse.Namespace) -> int:
    from sidecar.cli.tap import tap

    asked = {key: getattr(options, key) for key in ("upstream", "status", "error", "limit")}
    return tap(options.admin, options.token_file, asked, as_json=options.json)


def _mesh(options: argparse.Namespace) -> int:
    from sidecar.cli.mesh import mesh

    return mesh(options.admin, options.token_file, as_json=options.json)


def _top(options: argparse.Namespace) -> int:
    from sidecar.cli.top import top

    return top(options.admin, options.token_file, of_mesh=options.mesh, count=options.count)
