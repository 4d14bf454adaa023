"""``python -m bench``: measure, print, write the page."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench.contenders import CONTENDERS
from bench.load import CASES
from bench.processes import ROOT, BenchError
from bench.report import Conditions, goal_lines, page, tables
from bench.run import run

PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, without one failed request; 1: not; 2: wrong usage. Missed goals are printed, not an error."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # Debian keeps servers in sbin, which an ordinary user's PATH leaves out.
    os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    names: list[str] = options.only
    try:
        _require(["nginx", "wrk", "taskset", *(["haproxy"] if "haproxy" in names else [])])
        cores = _two_cores()
        conditions = Conditions(
            command=shlex.join(["make", "bench", *([f"ARGS={shlex.join(sys.argv[1:])}"] if sys.argv[1:] else [])]),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            load_average=os.getloadavg()[0],
            repeats=options.repeats,
            seconds=options.seconds,
            cores=cores,
        )
        minutes = len(names) * (len(CASES) * options.seconds + 2) * options.repeats / 60
        print(f"{', '.join(names)}: {options.repeats} repeats, about {minutes:.0f} minutes in all", flush=True)
        if conditions.load_average > 0.5:
            print(f"This machine is busy (load average {conditions.load_average:.1f}); expect noise", flush=True)
        results = run(names, cores, options.repeats, options.seconds, lambda line: print(line, flush=True))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 1
    print("", tables(results, names), "", goal_lines(results), sep="\n")
    if results.errors:
        print(f"bench: {results.errors} requests failed, so these figures mean nothing", file=sys.stderr)
        return 1
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page(results, names, conditions))
        print(f"\nWritten to {options.output}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="This sidecar, Envoy and HAProxy side by side; writes docs/benchmarks.md."
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 repeats of 3 s, only printed: to see roughly, not to publish"
    )
    parser.add_argument(
        "--only", metavar="NAMES", type=_names, help=f"comma-separated, of {', '.join(CONTENDERS)}; only printed"
    )
    parser.add_argument("--repeats", type=int, help="how often each case is measured (5)")
    parser.add_argument("--seconds", type=int, help="how long each time (8)")
    parser.add_argument("--output", type=Path, help="write the page here, whatever was measured")
    options = parser.parse_args(arguments)
    if options.output is None and not options.quick and options.only is None:
        options.output = PAGE
    options.repeats = options.repeats or (2 if options.quick else 5)
    options.seconds = options.seconds or (3 if options.quick else 8)
    if options.repeats < 1 or options.seconds < 1:
        parser.error("--repeats and --seconds are at least 1")
    options.only = options.only or list(CONTENDERS)
    return options


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(CONTENDERS)}")
    return [name for name in CONTENDERS if name in names]


def _require(programs: Sequence[str]) -> None:
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise BenchError(
            f"{', '.join(missing)} not found; on Debian: apt-get install nginx-light haproxy wrk util-linux"
        )


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("this needs two cores: one for the proxy, one for the load")
    return cores[0], cores[1]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
