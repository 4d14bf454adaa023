"""``python -m bench``: measure, print, write the page."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from bench import load, report, telemetry
from bench.amqp import cases as amqp_cases
from bench.amqp import report as amqp_report
from bench.amqp.contenders import CONTENDERS as AMQP_CONTENDERS
from bench.amqp.run import run as run_amqp
from bench.contenders import CONTENDERS
from bench.page import AMQP, HTTP, SPOOL, TELEMETRY, Conditions, Goal, goal_lines, page
from bench.processes import ROOT, BenchError
from bench.rabbitmq import find_server
from bench.run import run
from bench.spool import report as spool_report
from bench.spool.run import CONTENDERS as SPOOL_CONTENDERS
from bench.spool.run import run as run_spool

PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the benchmark, which becomes one section of the page. ``spare`` are contenders that are only measured
    when they are named; ``overhead`` is how many seconds a contender takes in a repeat besides its load. What ``run``
    returns is what ``goals``, ``tables``, ``section`` and ``errors`` take."""

    title: str
    contenders: Sequence[str]
    spare: Sequence[str]
    programs: Sequence[str]
    cases: int
    repeats: int
    seconds: int
    overhead: float
    run: Callable[[Sequence[str], tuple[int, int], int, int, Callable[[str], None]], Any]
    goals: Callable[[Any], list[Goal]]
    tables: Callable[[Any, Sequence[str]], str]
    section: Callable[[Any, Sequence[str], Conditions], str]
    errors: Callable[[Any], int]


PARTS: Final = {
    "http": Part(
        title=HTTP,
        contenders=tuple(CONTENDERS),
        spare=(),
        programs=("nginx", "wrk"),
        cases=len(load.CASES),
        repeats=7,
        seconds=5,
        overhead=2,
        run=run,
        goals=report.goals,
        tables=report.tables,
        section=report.section,
        errors=lambda results: int(results.errors),
    ),
    "amqp": Part(
        title=AMQP,
        contenders=tuple(AMQP_CONTENDERS),
        spare=("relay",),
        programs=("epmd",),
        cases=len(amqp_cases.CASES),
        repeats=7,
        seconds=5,
        overhead=8,
        run=run_amqp,
        goals=amqp_report.goals,
        tables=amqp_report.tables,
        section=amqp_report.section,
        errors=lambda results: 0,  # any error ends the run
    ),
    "spool": Part(
        title=SPOOL,
        contenders=SPOOL_CONTENDERS,
        spare=(),
        programs=("epmd",),
        cases=1,
        repeats=3,
        seconds=35,
        overhead=120,
        run=run_spool,
        goals=spool_report.goals,
        tables=spool_report.tables,
        section=spool_report.section,
        errors=lambda results: 0,  # any error ends the run
    ),
    "telemetry": Part(
        title=TELEMETRY,
        contenders=telemetry.CONTENDERS,
        spare=telemetry.SPARE,
        programs=("nginx", "wrk"),
        cases=telemetry.TURNS,
        repeats=5,
        seconds=5,
        overhead=telemetry.TURNS * telemetry.SETTLE + 5,
        run=telemetry.run,
        goals=telemetry.goals,
        tables=telemetry.tables,
        section=telemetry.section,
        errors=lambda results: int(results.errors),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, without one failed request; 1: not; 2: wrong usage. Missed goals are printed, not an error."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # Debian keeps servers in sbin, which an ordinary user's PATH leaves out.
    os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    names: dict[str, list[str]] = options.names
    sections: dict[str, str] = {}
    failed = False
    try:
        _require(names)
        cores = _two_cores()
        for key, contenders in names.items():
            text = _measure(PARTS[key], contenders, cores, options.repeats, options.seconds)
            failed = failed or text is None
            sections[PARTS[key].title] = text or ""
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 1
    if failed:
        return 1
    if options.output:
        output: Path = options.output
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(output.read_text() if output.exists() else "", sections))
        print(f"\nWritten to {output}")
    return 0


def _measure(
    part: Part, names: Sequence[str], cores: tuple[int, int], repeats: int | None, seconds: int | None
) -> str | None:
    """Measure and print; the section, or None when there were failed requests."""
    conditions = Conditions(
        command=_command(sys.argv[1:], os.environ),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        load_average=os.getloadavg()[0],
        repeats=repeats or part.repeats,
        seconds=seconds or part.seconds,
        cores=cores,
    )
    minutes = len(names) * (part.cases * conditions.seconds + part.overhead) * conditions.repeats / 60
    print(
        f"{part.title}: {', '.join(names)}; {conditions.repeats} repeats, about {minutes:.0f} minutes in all",
        flush=True,
    )
    if conditions.load_average > 0.5:
        print(f"This machine is busy (load average {conditions.load_average:.1f}); expect noise", flush=True)
    results = part.run(names, cores, conditions.repeats, conditions.seconds, lambda line: print(line, flush=True))
    print("", part.tables(results, names), "", goal_lines(part.goals(results)), "", sep="\n", flush=True)
    if errors := part.errors(results):
        print(f"bench: {errors} requests failed, so these figures mean nothing", file=sys.stderr)
        return None
    return part.section(results, names, conditions)


def _command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What measures again, with the interpreter that was asked for."""
    python = environment.get("PYTHON", "python3")
    words = ["make", "bench"]
    if python != "python3":
        words.append(f"PYTHON={python}")
    if arguments:
        words.append(f"ARGS={shlex.join(arguments)}")
    return shlex.join(words)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="This sidecar, Envoy and HAProxy side by side, over HTTP and in front of RabbitMQ, the sidecar's "
        "spool, and what its telemetry costs; writes docs/benchmarks.md.",
    )
    parser.add_argument(
        "--part", choices=list(PARTS), help="only this one; the page keeps what it says about the others (all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 repeats of 3 s, only printed: to see roughly, not to publish"
    )
    known = dict.fromkeys([name for part in PARTS.values() for name in part.contenders])
    parser.add_argument(
        "--only", metavar="NAMES", type=_names, help=f"comma-separated, of {', '.join(known)}; only printed"
    )
    parser.add_argument("--repeats", type=int, help=f"how often each case is measured ({_defaults('repeats')})")
    parser.add_argument("--seconds", type=int, help=f"how long each time ({_defaults('seconds')})")
    parser.add_argument("--output", type=Path, help="write the page here, whatever was measured")
    options = parser.parse_args(arguments)
    if options.output is None and not options.quick and options.only is None:
        options.output = PAGE
    if options.quick:
        options.repeats, options.seconds = options.repeats or 2, options.seconds or 3
    if any(number is not None and number < 1 for number in (options.repeats, options.seconds)):
        parser.error("--repeats and --seconds are at least 1")
    options.names = {}
    for key, part in PARTS.items():
        names = [name for name in part.contenders if (name in options.only if options.only else name not in part.spare)]
        if names and options.part in (None, key):
            options.names[key] = names
    if not options.names:
        parser.error(f"none of {', '.join(options.only)} is in the part {options.part}")
    return options


def _defaults(name: str) -> str:
    return ", ".join(f"{key}: {getattr(part, name)}" for key, part in PARTS.items())


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    known = {name for part in PARTS.values() for name in part.contenders}
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(sorted(known))}")
    return names


def _require(names: dict[str, list[str]]) -> None:
    programs = ["taskset", *(program for key in names for program in PARTS[key].programs)]
    if any("haproxy" in contenders for contenders in names.values()):
        programs.append("haproxy")
    missing = [program for program in programs if shutil.which(program) is None]
    if names.keys() & {"amqp", "spool"} and find_server() is None:
        missing.append("rabbitmq-server")
    if missing:
        raise BenchError(
            f"{', '.join(missing)} not found; on Debian: apt-get install nginx-light haproxy wrk util-linux "
            "rabbitmq-server; --part and --only leave things out"
        )


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("this needs two cores: one for the proxy, one for the other side")
    return cores[0], cores[1]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
