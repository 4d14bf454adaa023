"""``python -m bench.rollout``: four sidecars share a canary; when do they roll back one that is bad, and do they all
give a good one everything?

Real processes: versions of a service, and four sidecars that call them, whose canaries' states are in a folder. Each of
the canaries below has a service of its own and its own requests, so what comes of one says nothing about another; they
run at once, which saves time.

    errors    1 % more errors than the old version, which has 0.1 %
    gross     20 % more errors
    slow      p99 300 ms in place of 200 ms
    good      as the old version

The sidecars judge together: of 200 requests a second over four, each sends 50, of which a step of 10 % gives the canary
5, and by what they tell each other all judge by 20. A judge that is not to be wrong more often than once in 200
rollouts needs some hundreds of these; what has 1 % more errors is rolled back within a minute mostly, or stays at its
first step meanwhile; that it gets no further is the promise, and how few requests fail by it. The good one needs about
800 answers in a step, so it may have more traffic (--good-rate); on a busy machine, whose own delays are in both
versions' tails, it needs more still.

Nothing is tried again, and every request that fails is counted, from the first one until the guard's window is over, or
later, when the canary has come to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.goals import Goal, printed
from bench.processes import BenchError
from bench.rollout.report import BAD, GOOD, GROSS, Asked, Changed, course, decided, rows
from bench.rollout.staging import SIDECARS, Candidate, Guard, Stage
from bench.shared_limit import Load
from bench.sidecars import end_with_terminate
from sidecar.simulate.scenarios.canary import NEW, OLD

#: Requests that one sidecar has under way for one canary; with more, the machine cannot do what is asked for.
MOST: Final = 60


async def run(
    stage: Stage, seconds: float, least: float
) -> tuple[dict[str, list[Load]], dict[str, float], list[Changed]]:
    """Ask until each canary has come to its end, or the time is over, and for ``least`` seconds: the requests, and for
    how many seconds, by name."""
    loop = asyncio.get_running_loop()
    loads = {it.name: [Load(each.ports[it.name], MOST) for each in stage.sidecars] for it in stage.candidates}
    began = loop.time()
    tasks = {
        it.name: [
            asyncio.create_task(load.run(it.rate / SIDECARS, began + seconds), name=it.name) for load in loads[it.name]
        ]
        for it in stage.candidates
    }
    lasted = dict.fromkeys(loads, seconds)
    while loop.time() < began + seconds and max(lasted.values()) == seconds:
        await asyncio.sleep(1.0)
        passed = loop.time() - began
        changes = await loop.run_in_executor(None, stage.changes)
        for name, each in loads.items():
            if lasted[name] == seconds and passed >= least and decided(changes, name, SIDECARS):
                lasted[name] = passed
                for load in each:
                    load.stop()
    await asyncio.gather(*[it for each in tasks.values() for it in each])
    return loads, lasted, await loop.run_in_executor(None, stage.changes)


def goals(stage: Stage, guard: Guard, seconds: float) -> Iterator[Goal]:
    loads, lasted, changes = asyncio.run(run(stage, seconds, min(seconds, guard.window)))
    for it in stage.candidates:
        outcomes = [each for load in loads[it.name] for each in load.outcomes]
        statuses = Counter(each[2] for each in outcomes)
        others = {status: count for status, count in statuses.items() if status not in (200, 500)}
        asked = Asked(len(outcomes), len(outcomes) - statuses[200], min(each[0] for each in outcomes), others)
        found = course([each for each in changes if each.upstream == it.name], asked.since)
        if not found.ends:
            found = found._replace(text=stage.waits(it.name))
        title = f"{it.what}, {asked.requests / lasted[it.name]:.0f}/s"
        yield from rows(title, it.kind, found, asked, (guard.window, lasted[it.name]), SIDECARS)


def candidates(rate: float, good_rate: float, only: Sequence[str]) -> list[Candidate]:
    found = [
        Candidate("errors", "1 % more errors", NEW["1 % more errors"][0], BAD, rate),
        Candidate("gross", "20 % more errors", OLD._replace(errors=OLD.errors + 0.2), GROSS, rate),
        Candidate("slow", "p99 + 50 %", NEW["p99 + 50 %"][0], BAD, rate),
        Candidate("good", "as the old one", OLD, GOOD, good_rate),
    ]
    return [it for it in found if not only or it.name in only]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [it.name for it in candidates(0, 0, ())]
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second to each, over the four (200)")
    parser.add_argument("--good-rate", type=float, default=600.0, help="to the good one (600)")
    parser.add_argument("--seconds", type=float, default=110.0, help="until what is undecided is left so (110)")
    parser.add_argument("--steps", default="10,25,100", help="percent (10,25,100)")
    parser.add_argument("--each", type=float, default=5.0, help="seconds that a step lasts at least (5)")
    parser.add_argument("--window", type=float, default=60.0, help="of the guard, seconds (60)")
    parser.add_argument("--only", choices=names, action="append", default=[], help="this one; may be given again")
    parser.add_argument("--short", action="store_true", help="the gross and the slow one, for 60 s")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    options = parser.parse_args(arguments)
    if options.short:
        options.seconds = min(options.seconds, 60.0)
        options.only = options.only or ["gross", "slow"]
    return options


def main() -> int:
    options = options_of()
    end_with_terminate()
    guard = Guard(tuple(int(it) for it in options.steps.split(",")), options.each, options.window)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rollout-") as folder, ExitStack() as stack:
        chosen = candidates(options.rate, options.good_rate, options.only)
        stage = Stage(stack, Path(folder), chosen, guard)
        print(f"{SIDECARS} sidecars, steps {options.steps}, each at least {guard.each:g} s;", end=" ")
        print(f"load average {os.getloadavg()[0]:.1f}\n")
        missed = printed(goals(stage, guard, options.seconds))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, after {time.monotonic() - began:.0f} s")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BenchError as error:
        print(f"bench.rollout: {error}", file=sys.stderr)
        raise SystemExit(1) from None
