"""nft(8) and its relatives as processes: rules go in and out by them, in the network namespace of this process."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from sidecar.redirect import leftovers
from sidecar.redirect.plan import TABLE, Plan, ruleset, undoing

#: Where Debian and others have administrators' commands, which PATH may lack.
_ALSO: Final = "/usr/sbin:/sbin"
#: Seconds for one command.
_PATIENCE: Final = 30.0
#: Which iptables-legacy tables there are in this network namespace; empty or missing: nobody has ever looked at one.
_LEGACY: Final = (
    ("/proc/net/ip_tables_names", "iptables-legacy"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
)
#: Tables of iptables in which destinations can be changed.
_TABLES: Final = {"nat", "mangle"}


class RedirectError(Exception):
    """Rules could not be looked at or changed; the text says why and what to do."""


def install(plan: Plan) -> bool:
    """Bring the table to the plan, as one transaction; whether anything is different now. Raises
    :class:`RedirectError`, and has changed nothing then."""
    found = leftovers.in_ruleset(_nft("list", "ruleset")) + _legacy()
    if found:
        raise RedirectError(leftovers.told(found))
    before = listing()
    _nft("-f", "-", text=ruleset(plan))
    return listing() != before


def undo() -> bool:
    """Take the table out; whether there was one. Raises :class:`RedirectError`."""
    there = bool(listing())
    if there:
        _nft("-f", "-", text=undoing())
    return there


def listing() -> str:
    """The table as nft shows it; empty: there is none. Raises :class:`RedirectError`."""
    tables = _nft("list", "tables")
    return _nft("list", "table", *TABLE.split()) if f"table {TABLE}" in tables.splitlines() else ""


def _nft(*arguments: str, text: str = "") -> str:
    program = _find("nft")
    if program is None:
        raise RedirectError("there is no nft here: install nftables (apt-get install nftables; apk add nftables)")
    code, out, error = _run(program, *arguments, text=text)
    if code:
        raise RedirectError(explained(error))
    return out


def explained(error: str) -> str:
    """What nft said, with what to do about it."""
    said = error.strip() or "nft failed without a word"
    if "not permitted" in said or "you must be root" in said:
        return (
            "nft may not: it takes root with the capability NET_ADMIN in this network namespace. Run this once in an "
            "init container that has it (cap_add: [NET_ADMIN]; capabilities: {add: [NET_ADMIN]}); the sidecar itself "
            f"needs none. It said: {_first(said)}"
        )
    if any(it in said for it in ("not supported", "No such file or directory", "cache initialization failed")):
        return (
            "this kernel lacks nftables, or a part of it that is needed: nf_tables, nft_chain_nat, nft_redir and "
            f"nft_fib_inet (modprobe on the host). It said: {_first(said)}"
        )
    return f"nft refused the rules: {said[:1000]}"


def _first(said: str) -> str:
    return " ".join(said.splitlines()[0].split())[:300]


def _legacy() -> list[str]:
    """What iptables-legacy has, which nft does not see."""
    found: list[str] = []
    for file, command in _LEGACY:
        try:
            there = _TABLES & set(Path(file).read_text().split())
        except OSError:
            continue
        if not there:
            continue
        program = _find(f"{command}-save")
        if program is None:
            raise RedirectError(
                f"there are rules of {command} here ({', '.join(sorted(there))}), and nothing to read them with: "
                "install iptables, so that those which redirect connections can be told from others"
            )
        code, out, error = _run(program)
        if code:
            raise RedirectError(f"{command}-save failed: {_first(error)}")
        found += leftovers.in_iptables(out, command)
    return found


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_ALSO}")


def _run(*command: str, text: str = "") -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_PATIENCE, env={**os.environ, "LC_ALL": "C"},
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RedirectError(f"{command[0]} could not be run: {error}") from error
    return done.returncode, done.stdout, done.stderr
