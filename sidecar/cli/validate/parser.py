"""Arguments of ``sidecar validate``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Final, NoReturn

from sidecar.cli.arguments import DEFAULT_ADMIN, admin_url
from sidecar.cli.validate.findings import CODES, OTHER

_EPILOG: Final = """\
examples:
  sidecar validate                                 the mesh of the sidecar on this host
  sidecar validate --admin 10.0.0.5:15000 --admin 10.0.0.6:15000
  sidecar validate --registry consul://10.0.0.2:8500 --component service_discovery
  sidecar validate --json . || echo "exit code $?"   in CI: leaves mesh_validation_report_<date>.json here
  sidecar validate --json | jq .summary            the report on standard output

  ✓ passed   ✗ failed: what was seen, and behind the arrow what to do next   ! allowed for   – does not apply

The sidecars that are named are only read. What has to be tried out is tried on a sidecar of its own, which runs on this
host for the time, with a sample service behind it: both are registered in the mesh's registry as sidecar-validate-…,
and taken out at the end, also after Ctrl-C. docs/validate.md has each check.

environment: SIDECAR_ADMIN, SIDECAR_ADMIN_TOKEN, CONSUL_HTTP_TOKEN

exit codes: 0 all passed; 1 infrastructure; 2 service discovery; 3 load balancing; 4 circuit breakers;
            5 performance; 6 dashboard, usage, anything else. The lowest that failed.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    validate = commands.add_parser(
        "validate",
        help="check a whole mesh, section by section, for people and for CI",
        description="Checks a mesh of running sidecars: infrastructure, service discovery, load balancing, circuit "
        "breakers, performance, dashboard.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    validate.add_argument(
        "--component", metavar="NAME", choices=list(CODES), help=f"only this section: {', '.join(CODES)}"
    )
    validate.add_argument("--detailed", action="store_true", help="more about each check")
    validate.add_argument(
        "--json", metavar="FILE", nargs="?", const="-",
        help="write the report there, as JSON; a folder: as mesh_validation_report_<date>.json in it; without FILE: "
        "on standard output, and the checks on standard error",
    )  # fmt: skip
    validate.add_argument(
        "--admin", metavar="URL", type=admin_url, action="append",
        help="a sidecar's admin API; may be given several times (default: SIDECAR_ADMIN in the environment, else "
        f"{DEFAULT_ADMIN})",
    )  # fmt: skip
    validate.add_argument(
        "--registry", metavar="URL", default="", help="the mesh's registry (default: what the first sidecar has)"
    )
    validate.add_argument(
        "--token-file", metavar="FILE", default="", help="the sidecars' admin token (default: SIDECAR_ADMIN_TOKEN)"
    )
    validate.add_argument(
        "--degraded-ok", action="store_true", help="missed performance, or a registry that is away, is a warning only"
    )
    _misuse_is_other(validate)
    validate.set_defaults(command=_validate)


def _misuse_is_other(parser: argparse.ArgumentParser) -> None:
    """argparse's own exit code, 2, would say that discovery has failed."""
    known = parser.parse_known_args

    def error(message: str) -> NoReturn:
        parser.print_usage(sys.stderr)
        parser.exit(OTHER, f"{parser.prog}: error: {message}\n")

    def parse(args: Any = None, namespace: Any = None) -> Any:
        found, more = known(args, namespace)
        if more:
            error(f"unrecognized arguments: {' '.join(more)}")
        return found, more

    for name, function in (("error", error), ("parse_known_args", parse)):
        setattr(parser, name, function)


def _validate(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.cli.validate.command import Options, validate

    return validate(
        Options(
            admin=options.admin or [admin_url(os.environ.get("SIDECAR_ADMIN") or DEFAULT_ADMIN)],
            registry=options.registry,
            token_file=options.token_file,
            component=options.component or "",
            detailed=options.detailed,
            json=options.json or "",
            degraded_ok=options.degraded_ok,
        )
    )
