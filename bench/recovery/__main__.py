"""``python -m bench.recovery``: how soon client libraries work again, each directly and through a sidecar.

Every client is there once per way, all meet the same fault at once, and the clock runs from its end: when somebody can
log in to the broker, when the next sidecar lets somebody in, when places are free. Working means that a publish made
after that was confirmed and that a message came. Clients whose library is not installed are left out, with a line that
says what to install.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.page import facts
from bench.processes import ROOT, BenchError
from bench.rabbitmq import RabbitMQ, find_server
from bench.recovery.kinds import KINDS, Kind
from bench.recovery.report import as_json, from_json, missed, page, scenario_table, told_table
from bench.recovery.scenarios import BROKER_SECONDS, SCENARIOS, TITLES, Bench, Outcomes

PAGE: Final = ROOT / "docs" / "amqp-clients.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every client was back in time on every way through the sidecar; 1: not, or it could not be measured."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CLIENT", help=", ".join(names))
    parser.add_argument(
        "--scenario", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME",
        help=", ".join(SCENARIOS),
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found out")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what clients, sidecars and broker logged")
    parser.add_argument("--write", action="store_true", help="write docs/amqp-clients.md")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="known", help="measure nothing; take what --json wrote"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Debian keeps servers in sbin, which an ordinary user's PATH leaves out.
    os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    try:
        if options.catalog:
            found = json.loads(options.catalog.read_text())
        else:
            found = _measure([kind for kind in KINDS if kind.name in options.only], options.scenario, options.logs)
    except (BenchError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    results = from_json(found["scenarios"])
    if options.write:
        PAGE.write_text(page(results, found["versions"], found["about"]))
        print(f"Written to {PAGE}")
    lines = missed(results)
    print("\n".join(["Late:", *(f"- {line}" for line in lines)]) if lines else "None was late.")
    return 1 if lines else 0


def _measure(wanted: Sequence[Kind], scenarios: Sequence[str], logs: Path | None) -> dict[str, Any]:
    """What ``--json`` writes."""
    kinds = _there(wanted)
    only = [] if len(wanted) == len(KINDS) else ["--only", *(kind.name for kind in wanted)]
    some = [] if len(scenarios) == len(SCENARIOS) else ["--scenario", *scenarios]
    command = shlex.join(["python", "-m", "bench.recovery", *only, *some])
    machine = facts(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], {})
    results = _run(kinds, scenarios, logs)
    return {
        "about": f"Measured by `{command}`.\n\n{machine}",
        "versions": {kind.name: kind.said_version() for kind in kinds},
        "scenarios": as_json(results),
    }


def _there(kinds: Sequence[Kind]) -> list[Kind]:
    """Those whose library is on this machine."""
    found = []
    for kind in kinds:
        if kind.missing():
            print(f"{kind.name} is left out: it is not here ({kind.package})", flush=True)
        else:
            found.append(kind)
    if not found:
        raise BenchError("none of the clients is here")
    if find_server() is None:
        raise BenchError("there is no RabbitMQ here; on Debian: apt-get install rabbitmq-server")
    return found


def _run(kinds: Sequence[Kind], scenarios: Sequence[str], logs: Path | None) -> dict[str, Outcomes]:
    results: dict[str, Outcomes] = {}
    with ExitStack() as stack:
        folder = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recovery-")))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        commands = {kind.name: kind.prepare(folder) for kind in kinds}
        broker = stack.enter_context(RabbitMQ(folder / "rabbitmq", None))
        bench = Bench(broker, folder, commands, lambda line: print(line, flush=True))
        begun = time.monotonic()
        broker.wait_ready(BROKER_SECONDS)
        bench.starting = time.monotonic() - begun
        for name in scenarios:
            print(f"{TITLES[name]}:", flush=True)
            results[name] = SCENARIOS[name](bench)
            print("", scenario_table(results[name]), "", told_table(results[name]), "", sep="\n", flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
