"""The keys of a canary: which subset gets more and more of the requests, and what stops that."""

from __future__ import annotations

from typing import Any

from sidecar.config.containers import Fields, ListOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN
from sidecar.config.values import NAME, Duration, Enum, Integer, Share


class GuardSettings(Settings):
    """What rolls it back, compared with the other subsets over the same time."""

    error_rate: float = key(Share(), "So many more errors than the others have, as a share of requests.", default=0.01)
    p99: float = key(
        Duration("1ms", "1h", zero=True), "A p99 so much longer than that of the others; 0: latencies are not judged.",
        default=0.1,
    )  # fmt: skip
    min_requests: int = key(
        Integer(20, 1_000_000),
        "With fewer requests to it, or to the others, of all sidecars, nothing is said.",
        default=100,
    )
    window: float = key(
        Duration("1s", "1h"), "What comes is also looked at by itself, from this often on: what was well for long does "
        "not hide what is not now.", default=60.0,
    )  # fmt: skip


class CanarySettings(Settings):
    """Give a subset more and more of the requests, for as long as it does as well as the others."""

    subset: str = key(NAME, "The one that is tried.", example="next")
    steps: tuple[int, ...] = key(
        ListOf(Integer(1, 100), minimum=1, maximum=20),
        "What it gets, in percent, step by step; the others share the rest by their weights.",
        default=(10, 25, 100),
    )
    each: float = key(Duration("1s", "7d"), "How long a step lasts at least.", default=600.0)
    promote: str = key(
        Enum("auto", "manual"), "Whether the next step comes by itself, or when an operator says so.", default="auto"
    )
    guard: GuardSettings = key(section(GuardSettings), "What rolls it back.", default=GuardSettings())


def check(upstream: Fields) -> None:
    """Report what does not fit together: it is one of the subsets, there are others, and its steps go up."""
    fields = upstream.section_of("canary")
    if fields is None:
        return
    if upstream.value("protocol") == "amqp":
        return  # which is told already
    subsets, name = upstream.get("subsets", {}), fields.get("subset")
    if isinstance(subsets, dict) and isinstance(name, str) and name not in subsets:
        fields.places["subset"].report(
            "is no subset of this upstream", found=name, allowed=", ".join(subsets) or "none: subsets is not given",
            nearest=nearest(name, subsets),
        )  # fmt: skip
    split: Any = upstream.get("split")
    others = isinstance(split, dict) and any(it is BROKEN or it for other, it in split.items() if other != name)
    if not others and split is not BROKEN and isinstance(subsets, dict) and name in subsets:
        fields.place.report(
            "needs a split beside it, with a weight for another subset", allowed="split: {stable: 100}, for one"
        )
    steps = fields.get("steps")
    if isinstance(steps, list) and BROKEN not in steps and steps != sorted(set(steps)):
        fields.places["steps"].report("do not go up", found=str(steps), allowed=f"for one {sorted(set(steps))}")
    guard = fields.section_of("guard")
    if guard is not None and guard.get("error_rate") == 0:
        guard.places["error_rate"].report("cannot be told from none", found="0", allowed="a share above 0, as 1%")
