"""The run: start everything, measure in turns, stop everything."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.contenders import CONTENDERS, Contender
from bench.load import CASES, Case, Sample, check_duties, measure, wait_ready
from bench.processes import Memory
from bench.upstream import Upstream

#: Length of a turn, seconds.
TURN_SECONDS: Final = 1


@dataclass(slots=True)
class Results:
    """Every sample of a run, by (contender, case): one for each turn, in the order of the rounds; memory after load and
    start-up seconds by contender."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    memory: dict[str, list[Memory]] = field(default_factory=dict)
    startup: dict[str, list[float]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """All of them together; anything but 0 makes the figures worthless."""
        return sum(sample.errors for samples in self.samples.values() for sample in samples)


def run(
    names: Sequence[str], cores: tuple[int, int], repeats: int, seconds: int, say: Callable[[str], None]
) -> Results:
    """Measure the contenders in all cases, ``repeats`` times, ``seconds`` each; ``say`` is told of the progress.

    ``cores`` are the proxies' and the load's. Every repeat starts fresh processes, all alive at once but only one under
    load. They take turns of a second, in another order each round.
    """
    results = Results()
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as temporary:
        for repeat in range(repeats):
            folder = Path(temporary, str(repeat))
            folder.mkdir()
            with ExitStack() as stack:
                upstream = stack.enter_context(Upstream(folder / "nginx", cores[1]))
                contenders = [_start(stack, name, upstream, folder, cores[0], results) for name in names]
                for contender in contenders:
                    check_duties(contender)
                    measure(CASES[1], contender, 1, cores[1])  # warm-up, not counted
                for number, case in enumerate(CASES):
                    for turn in range(max(seconds // TURN_SECONDS, 1)):
                        shift = (repeat + number + turn) % len(contenders)
                        for contender in contenders[shift:] + contenders[:shift]:
                            sample = measure(case, contender, TURN_SECONDS, cores[1])
                            results.samples.setdefault((contender.name, case.name), []).append(sample)
                            say(_progress(repeat, repeats, case, contender, sample))
                            upstream.check()
                for contender in contenders:
                    if contender.process:
                        results.memory.setdefault(contender.name, []).append(contender.process.memory())
    return results


def _start(stack: ExitStack, name: str, upstream: Upstream, folder: Path, core: int, results: Results) -> Contender:
    since = time.monotonic()
    contender = CONTENDERS[name](upstream.port, folder, core)
    if contender.process:
        stack.enter_context(contender.process)
    took = wait_ready(contender, since)
    if contender.process:
        results.startup.setdefault(name, []).append(took)
    return contender


def _progress(repeat: int, repeats: int, case: Case, contender: Contender, sample: Sample) -> str:
    return (
        f"{repeat + 1}/{repeats}  {case.title:<38} {contender.name:<8} {sample.cpu:8.1f} µs CPU "
        f"{sample.rate:8.0f} req/s  p50 {sample.p50:.0f} µs  p99 {sample.p99:.0f} µs"
        + (f"  {sample.errors} ERRORS" if sample.errors else "")
    )
