"""One moment of the story, drawn: lines of styled text for a terminal, or one plain line."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from sidecar.demo.mesh import INSTANCES
from sidecar.demo.observe import Seen
from sidecar.demo.story import PHASES, Story
from sidecar.demo.traffic import Moment, quantile

#: A piece of a line and how it looks: a name of :data:`sidecar.demo.view.STYLES`, or nothing.
Piece = tuple[str, str]
Line = list[Piece]

_BREAKER_STYLE = {"closed": "good", "half_open": "warn", "open": "bad"}


@dataclass(frozen=True, slots=True)
class Picture:
    """The figures of one moment."""

    clock: float
    chapter: int
    title: str
    caption: str
    tasks: Moment
    model: Moment
    seen_tasks: Seen
    seen_model: Seen
    dead: frozenset[str]
    errors: int
    refused: int
    refused_after: float
    events: list[tuple[float, str]]


def take(story: Story) -> Picture:
    """Return the picture of this moment."""
    model = story.model.total()
    return Picture(
        clock=story.clock,
        chapter=story.chapter,
        title=story.title,
        caption=story.caption,
        tasks=story.tasks.moment(),
        model=story.model.moment(),
        seen_tasks=story.observer.tasks,
        seen_model=story.observer.model,
        dead=frozenset(w.name for w in story.mesh.workloads if not w.app.running),
        errors=sum(story.tasks.total().errors.values()),
        refused=len(model.refusals),
        refused_after=quantile(model.refusals, 0.5),
        events=story.events,
    )


def state_of(instance: str, picture: Picture) -> Piece:
    """Say how web's sidecar sees an instance."""
    if instance in picture.seen_tasks.in_rotation:
        return ("in rotation", "good") if instance not in picture.dead else ("dead, not noticed yet", "bad")
    dead = "dead, " if instance in picture.dead else ""
    return (f"{dead}ejected", "bad") if instance in picture.seen_tasks.known else (f"{dead}not registered", "bad")


def plain(picture: Picture) -> str:
    """Return one line, for logs and pipes."""
    shares = "  ".join(f"{name} {picture.tasks.instances.get(name, 0.0):3.0f}/s" for name in INSTANCES)
    return (
        f"tasks {picture.tasks.rate:4.0f} req/s  {shares}  p50 {_ms(picture.tasks.p50)}  p99 {_ms(picture.tasks.p99)}  "
        f"errors {picture.errors}  retries {sum(picture.seen_tasks.retries.values())} | "
        f"model {picture.model.rate:3.0f} req/s  breaker {_words(picture.seen_model.breaker)}"
    )


def draw(picture: Picture, width: int, height: int, full: str = "█") -> list[Line]:
    """Return the picture for a terminal of this size, cut to its lines; ``full`` is the character of the bars."""
    inner = min(width, 110) - 2
    clock = f"{int(picture.clock) // 60:02d}:{picture.clock % 60:04.1f}"
    name = " sidecar demo "
    lines: list[Line] = [
        [(name, "title"), (clock.rjust(inner + 1 - len(name)), "faint")],
        [],
        [(f" {picture.chapter}/{len(PHASES)}  {picture.title}", "strong")],
    ]
    caption = textwrap.wrap(picture.caption, max(20, inner - 6))[:2]
    lines += [[(f"      {text}", "")] for text in caption] + [[] for _ in range(2 - len(caption))]
    lines += [[], *_tasks(picture, inner, full), [], *_model(picture), []]
    room = height - len(lines) - 1
    if room > 1:
        lines.append([(" what happened", "faint")])
        lines += [[(f"   {at:5.1f} s  ", "faint"), (text, "")] for at, text in picture.events[-(room - 1) :]]
    return lines[: height - 1]


def _tasks(picture: Picture, inner: int, full: str) -> list[Line]:
    tasks = picture.tasks
    retries = sum(picture.seen_tasks.retries.values())
    lines: list[Line] = [
        [
            (" tasks", "strong"),
            (f"     {tasks.rate:4.0f} req/s   ", ""),
            (f"errors {picture.errors}", "bad" if picture.errors else "good"),
            (f"   retries {retries}   p50 {_ms(tasks.p50)}   p99 {_ms(tasks.p99)}", ""),
        ]
    ]
    room = max(10, min(50, inner - 46))
    most = max(60.0, *(tasks.instances.get(name, 0.0) for name in INSTANCES))
    for name in INSTANCES:
        rate = tasks.instances.get(name, 0.0)
        bar = full * round(rate / most * room)
        state, style = state_of(name, picture)
        lines.append([(f"   {name}  ", ""), (bar.ljust(room), "bar"), (f" {rate:4.0f}/s  ", ""), (state, style)])
    return lines


def _model(picture: Picture) -> list[Line]:
    model, seen = picture.model, picture.seen_model
    breaker: Line = [
        ("   breaker  ", ""),
        (_words(seen.breaker), _BREAKER_STYLE.get(seen.breaker, "")),
    ]
    if seen.breaker == "open":
        breaker.append((f", next trial in {seen.retry_after:.1f} s", ""))
    if picture.refused:
        breaker.append((f"   refused {picture.refused}, each in {_ms(picture.refused_after).strip()}", ""))
    head = f"     {model.rate:4.0f} req/s   p50 {_ms(model.p50)}   p99 {_ms(model.p99)}   streamed answers"
    return [
        [(" model", "strong"), (head, "")],
        breaker,
    ]


def _ms(seconds: float) -> str:
    if not seconds:
        return "   -   "  # nothing was answered
    return f"{seconds * 1000:4.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:4.1f} ms"


def _words(state: str) -> str:
    return state.replace("_", "-")
