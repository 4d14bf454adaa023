"""``sidecar mesh``: prints who calls whom, the worst first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.cli.admin_client import Admin, CommandError, token
from sidecar.cli.status import columns
from sidecar.core.text import printable

DONE: Final = 0
FAILED: Final = 1

#: From where on errors and latency are told of, as the alerts ``ServiceErrorRate`` and ``ServiceLatency`` do.
FAILING: Final = 0.01
SLOW_MS: Final = 500.0
#: Where a connection lasts as long as its client wants.
_LONG: Final = ("tcp", "amqp")

_RANK: Final = {"not_answering": 0, "unhealthy": 1, "warning": 2, "healthy": 3, "unknown": 4}


def mesh(url: str, token_file: str, *, as_json: bool) -> int:
    """Print the mesh as the sidecar at ``url`` finds it."""
    try:
        found = Admin(url, token(token_file), "--admin URL").ask("GET", "/mesh")
        text = json.dumps(found, indent=2) if as_json else "\n".join(lines(found, colours()))
    except CommandError as error:
        print(f"sidecar mesh: {error}", file=sys.stderr)
        return FAILED
    except (LookupError, TypeError, AttributeError, ValueError):
        print(f"sidecar mesh: what answers at {url} is not a sidecar's admin API", file=sys.stderr)
        return FAILED
    print(text)
    return DONE


def colours() -> bool:
    """Whether standard output is a terminal that wants them."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def lines(found: Mapping[str, Any], colour: bool) -> list[str]:
    """The map as two tables, and what is wrong."""
    services = sorted(found["services"], key=_badness)
    edges = sorted(found["edges"], key=_badness)
    rows = [["SERVICE", ">INSTANCES", ">RATE", ">ERRORS", ">P50", ">P99", "STATUS", "WHY"]]
    rows += [[it["name"], str(it["instances"] or "-"), *figures(it), *judged(it, it["problem"])] for it in services]
    told = columns(rows, colour)
    if edges:
        rows = [["FROM", "TO", "PROTOCOL", ">RATE", ">ERRORS", ">P50", ">P99", "STATUS", "WHY"]]
        rows += [[it["from"], it["to"], it["protocol"], *figures(it), *judged(it, it["problem"])] for it in edges]
        told += ["", *columns(rows, colour)]
    if found.get("problem"):
        told += ["", printable(found["problem"], 200)]
    if len([it for it in services if it["kind"] == "service"]) == 1:
        told += ["", "Only this sidecar is seen: others are with a probes section, and over a registry that both use."]
    return told


def figures(it: Mapping[str, Any]) -> Sequence[str]:
    """Rate, share of errors, p50 and p99, for people."""
    rate, share = it["rate"], it["error_rate"]
    return (
        "-" if rate is None else f"{rate:.1f}/s",
        "-" if share is None else f"{share * 100:.1f} %",
        *("-" if it[key] is None else f"{it[key]:.4g} ms" for key in ("p50_ms", "p99_ms")),
    )


def _badness(it: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        _RANK.get(it["status"], 0), -(it["error_rate"] or 0), -(it["rate"] or 0), it.get("name", ""),
        it.get("from", ""), it.get("to", ""),
    )  # fmt: skip


def judged(it: Mapping[str, Any], why: str) -> Sequence[str]:
    """The state and why, for people. What is healthy may fail all the same, or be slow: its app answers so."""
    status, share, p99 = it["status"], it["error_rate"], it["p99_ms"]
    if status == "healthy" and share is not None and share > FAILING:
        return "failing", f"{share * 100:.3g} % fail"
    if status == "healthy" and p99 is not None and p99 > SLOW_MS and it.get("protocol", "http") not in _LONG:
        return "slow", f"one in a hundred takes {p99 / 1000:.2g} s or longer"
    return {"not_answering": "no answer"}.get(status, status), printable(str(why), 60)
