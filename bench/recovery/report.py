"""The figures as tables, and the page that they become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bench.page import table
from bench.recovery.kinds import KINDS
from bench.recovery.scenarios import RECOVERY_SECONDS, TITLES, WAYS, Outcome, Outcomes

#: Seconds within which a client should work again, and what one that rests longer by itself is given beyond its rest.
GOAL: Final = 5.0
_REST_GRACE: Final = 2.0
#: Where all clients are refused from their first try on; the page says what they are told there.
_TELLING: Final = ("newcomer", "full")
_PAUSES: Final = {kind.name: kind.pause for kind in KINDS}
_RECOVERY: Final = {kind.name: kind.recovery for kind in KINDS}

_HEAD: Final = """# AMQP clients, and a broker that goes

Written by `python -m bench.recovery --write`; do not edit, run it again.

Ten client libraries publish (with confirms, ten messages a second) and consume, each once straight to a real RabbitMQ
(`direct`), once through an AMQP port of a sidecar (`port`), and once through one with a spool (`spool`). Each port is
configured as it comes, and is one client's alone, as beside an app. What goes wrong meets all of them at once. Then
each has its own recovery, or, where its library has none, the loop that its users write.

The figures are seconds from the end of the fault until a message had come, and a publish made since then was confirmed.
The fault ends when somebody can log in to the broker, when the next sidecar lets somebody in, or when places are free.
The goal is {goal:g} s. *Own pause* marks more than that where the client itself rests as long between two tries. Bold
is what that does not explain.

bunny lets one thread publish while another one recovers, straight into its handshake. The broker breaks that off, and
so does the sidecar. Its program waits meanwhile; one that does not may lose tries, with and without a sidecar.
"""


def late(kind: str, outcome: Outcome) -> bool:
    """Whether it needed longer than :data:`GOAL` and than its own pause between two tries explains."""
    seconds = outcome.seconds
    return seconds is None or seconds > max(GOAL, _PAUSES[kind] + _REST_GRACE)


def cell(kind: str, outcome: Outcome | None) -> str:
    """What a table says of one client on one way."""
    if outcome is None:
        return "-"
    if not outcome.started:
        return "did not start"
    if outcome.seconds is None:
        if outcome.gone:
            return "**gave up**"
        half = {(True, False): ", publishes", (False, True): ", consumes"}
        which = half.get((outcome.published is not None, outcome.consumed is not None), "")
        return f"**not in {RECOVERY_SECONDS:g} s**{which}"
    text = f"{outcome.seconds:.1f}"
    if late(kind, outcome):
        return f"**{text}**"
    return f"{text} (own pause)" if outcome.seconds > GOAL else text


def scenario_table(outcomes: Outcomes) -> str:
    """Seconds, client by client."""
    names = list(dict.fromkeys(kind for kind, _ in outcomes))
    ways = [way for way in WAYS if any(way == each for _, each in outcomes)]
    rows = [[name, *(cell(name, outcomes.get((name, way))) for way in ways)] for name in names]
    return table(["client", *ways], rows)


def told_table(outcomes: Outcomes) -> str:
    """What each client was told while it could not work: the last of the texts, or that with which it gave up."""
    rows = []
    for (kind, way), outcome in outcomes.items():
        text = outcome.gone or (outcome.told[-1] if outcome.told else "")
        if text:
            rows.append([kind, way, ("gives up: " if outcome.gone else "") + _short(text)])
    return table(["client", "way", "told"], rows) if rows else ""


def _short(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= 150 else flat[:149] + "…"


def missed(results: Mapping[str, Outcomes]) -> list[str]:
    """A line for each that was late, through the sidecar or not."""
    lines = []
    for scenario, outcomes in results.items():
        for (kind, way), outcome in outcomes.items():
            if outcome.started and late(kind, outcome):
                why = outcome.gone or (outcome.told_after[-1] if outcome.told_after else "nothing was refused any more")
                lines.append(f"{scenario}, {kind}, {way}: {cell(kind, outcome)} ({_short(why)})")
    return lines


def recovery_table(kinds: Iterable[str], versions: Mapping[str, str]) -> str:
    """Who tries again, and how often."""
    return table(["client", "version", "who tries again"], [[kind, versions[kind], _RECOVERY[kind]] for kind in kinds])


def page(results: Mapping[str, Outcomes], versions: Mapping[str, str], about: str) -> str:
    """docs/amqp-clients.md; ``about``: command, date and machine."""
    parts = [_HEAD.format(goal=GOAL), recovery_table(versions, versions), ""]
    for scenario, outcomes in results.items():
        parts += [f"## {TITLES[scenario]}", "", scenario_table(outcomes), ""]
        if scenario in _TELLING and (told := told_table(outcomes)):
            parts += ["What they take it for, as their own words have it:", "", told, ""]
    lines = missed(results)
    parts += ["## Late", "", *(f"- {line}" for line in lines)] if lines else ["## Late", "", "None."]
    return "\n".join([*parts, "", "## How it was measured", "", about, ""])


def as_json(results: Mapping[str, Outcomes]) -> dict[str, list[dict[str, Any]]]:
    """Everything that was found out, a list per scenario."""
    return {
        scenario: [
            {
                "client": kind,
                "way": way,
                "seconds": outcome.seconds,
                "published": outcome.published,
                "consumed": outcome.consumed,
                "started": outcome.started,
                "gone": outcome.gone,
                "told": list(outcome.told),
                "told_after": list(outcome.told_after),
                "late": late(kind, outcome),
            }
            for (kind, way), outcome in outcomes.items()
        ]
        for scenario, outcomes in results.items()
    }


def from_json(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Outcomes]:
    """The reverse of :func:`as_json`."""
    return {
        scenario: {
            (entry["client"], entry["way"]): Outcome(
                **{key: entry[key] for key in ("published", "consumed", "told", "told_after", "gone", "started")}
            )
            for entry in entries
        }
        for scenario, entries in found.items()
    }
