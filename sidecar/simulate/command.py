"""``python -m sidecar.simulate SCENARIO``: runs scenarios, prints what they find, draws plots."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.simulate import page
from sidecar.simulate.report import Report
from sidecar.simulate.scenarios import SCENARIOS, Scenario

DONE: Final = 0
BROKEN: Final = 1
MISUSED: Final = 2

_HELP: Final = """\
Lets the sidecar's own code run in a time of its own, with virtual servers and clients around it, and says what came of
it. The same seed gives the same run, on every machine.

  python -m sidecar.simulate --list              what there is
  python -m sidecar.simulate amplification       one of them: its figures, and which of its laws hold
  python -m sidecar.simulate breaker --seed 7    with other random numbers
  python -m sidecar.simulate all --plots /tmp    all of them, and their plots as SVG
  python -m sidecar.simulate all --page docs/resilience.md
                                                 puts the figures into the page, and the plots beside it

Exit code: 0, all laws hold; 1, one does not; 2, there is no such scenario.
"""


def main(arguments: Sequence[str]) -> int:
    """Run it; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.list or not options.scenario:
        width = max(map(len, SCENARIOS))
        print("\n".join(f"{name:{width}}  {it.summary}" for name, it in sorted(SCENARIOS.items())))
        return DONE
    wanted = sorted(SCENARIOS) if options.scenario == ["all"] else options.scenario
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        print("\n".join(map(_unknown, unknown)), file=sys.stderr)
        return MISUSED
    logging.getLogger("sidecar").setLevel(logging.CRITICAL)  # thousands of ejections are no news here
    broken = 0
    for name in wanted:
        report = _run(SCENARIOS[name], options.seed)
        broken += len(report.broken)
        if options.plots:
            page.draw(report, Path(options.plots))
        if options.page:
            page.put(report, name, options.seed, Path(options.page))
    return BROKEN if broken else DONE


def _run(scenario: Scenario, seed: int) -> Report:
    print(f"== {scenario.name} (seed {seed}): {scenario.summary}\n", flush=True)
    began = time.process_time()
    report = scenario.run(seed)
    print(report.text())
    print(f"\n{time.process_time() - began:.1f} s of CPU\n", flush=True)
    return report


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, SCENARIOS, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no scenario {name!r}{hint} (--list names all)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.simulate", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="which to run; all: every one")
    parser.add_argument("--list", action="store_true", help="name the scenarios, each with what it shows")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (1)")
    parser.add_argument("--plots", metavar="FOLDER", help="write the plots there, as SVG")
    parser.add_argument("--page", metavar="FILE", help="put the figures into this page, where it has a place for them")
    return parser
