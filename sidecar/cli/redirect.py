"""``sidecar redirect``: the rules that lead an app's connections through its sidecar though it dials others."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sidecar.config.schema import Config
    from sidecar.redirect.plan import Plan

_EPILOG: Final = """\
examples:
  sidecar redirect sidecar.yaml --dry-run       the rules, to read; changes nothing
  sidecar redirect sidecar.yaml                 install them: in an init container, or before the sidecar starts
  sidecar redirect sidecar.yaml --undo          take them out
  sidecar redirect sidecar.yaml --hold          install them, and take them out on SIGTERM or Ctrl-C

What is redirected stands in the file's section redirect; docs/redirect.md has when to use it. It acts on the network
namespace in which it runs, and takes nft and the capability NET_ADMIN; the sidecar itself needs neither. To run it
again changes nothing but what differs.

exit codes: 0 done; 1 it could not be: no nft, no NET_ADMIN, rules of others, an app that runs as the sidecar's user;
            2 usage or configuration
"""


def add_parser(commands: Any) -> None:
    """``sidecar redirect`` and its arguments."""
    from sidecar.cli.arguments import add_file

    redirect = commands.add_parser(
        "redirect",
        help="have the kernel lead an app's connections through its sidecar, or undo that",
        description="Install nftables rules that redirect connections to the sidecar, as the file says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file(redirect)
    what = redirect.add_mutually_exclusive_group()
    what.add_argument("--undo", action="store_true", help="take the rules out; the file is not read")
    what.add_argument("--dry-run", action="store_true", help="print the rules, and change nothing")
    what.add_argument("--hold", action="store_true", help="stay, and take the rules out when told to end")
    redirect.set_defaults(command=_redirect)


def _redirect(options: argparse.Namespace) -> int:
    from sidecar.redirect.nft import RedirectError

    try:
        if options.undo:
            return _undo()
        return _install(options.file, dry_run=options.dry_run, hold=options.hold)
    except RedirectError as error:
        print(f"sidecar redirect: {error}", file=sys.stderr)
        return 1


def _install(file: str, *, dry_run: bool, hold: bool) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.config.errors import ConfigError, Problem
    from sidecar.config.load import load_file
    from sidecar.redirect.nft import install
    from sidecar.redirect.plan import ruleset, summary

    config = load_file(file)
    plan = plan_of(config)
    if plan is None:
        what = Problem("redirect", "is missing", allowed="redirect: {outbound: {ports: [80]}}, or inbound: {}, or both")
        raise ConfigError(file, [what])
    if dry_run:
        print(ruleset(plan), end="")
        return 0
    _check_users(plan, config.service.app.port if config.service.app is not None else 0)
    if hold:  # before anything is changed: what comes meanwhile must not leave it behind
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    changed = install(plan)
    for line in summary(plan):
        print(line, flush=True)
    print("installed" if changed else "in place already, nothing has changed", flush=True)
    if hold:
        signal.sigwait(_ENDING)
        return _undo()
    return 0


_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def _undo() -> int:
    from sidecar.redirect.nft import undo

    print("taken out" if undo() else "there are none of our rules here", flush=True)
    return 0


def plan_of(config: Config) -> Plan | None:
    """What that configuration wants to be redirected; ``None``: nothing."""
    from sidecar.redirect.plan import Inbound, Outbound, Plan

    redirect = config.redirect
    if redirect is None:
        return None
    out = redirect.outbound
    outbound = Outbound(ports=out.ports, to=out.port, exclude=out.exclude) if out is not None else None
    app = config.service.app.port if config.service.app is not None else 0
    inbound = Inbound(app, redirect.inbound.port) if redirect.inbound is not None else None
    return Plan(redirect.uid, outbound, inbound)


def _check_users(plan: Plan, app: int) -> None:
    """Where the app listens already, it is known whose it is. Raises :class:`~sidecar.redirect.nft.RedirectError`."""
    from sidecar.redirect.listeners import users_of
    from sidecar.redirect.nft import RedirectError

    if plan.outbound is not None and app and plan.uid in users_of(app):
        raise RedirectError(
            f"the app at port {app} runs as user {plan.uid}, which is the sidecar's own (redirect.uid): none of "
            "its connections would be redirected. Run one of the two as another user"
        )
