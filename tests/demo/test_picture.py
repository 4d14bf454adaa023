from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.demo.observe import Seen
from sidecar.demo.picture import Picture, draw, plain, state_of
from sidecar.demo.traffic import Moment
from sidecar.demo.view import Lines, Terminal, render

PICTURE = Picture(
    clock=75.25,
    chapter=2,
    title="tasks-2 is killed",
    caption="Its service and its sidecar get SIGKILL. " * 4,
    tasks=Moment(rate=120.0, instances={"tasks-1": 59.6, "tasks-3": 60.4}, errors=0.0, p50=0.0062, p99=0.0213),
    model=Moment(rate=6.0, instances={}, errors=6.0, p50=0.0, p99=0.0),
    seen_tasks=Seen(
        in_rotation=frozenset({"tasks-1", "tasks-3"}), known=frozenset({"tasks-1", "tasks-2", "tasks-3"}),
        retries={"connect": 2, "race": 1},
    ),
    seen_model=Seen(breaker="open", retry_after=1.5),
    dead=frozenset({"tasks-2"}),
    errors=0,
    refused=12,
    refused_after=0.0012,
    events=[(at / 10, f"event {at}") for at in range(100)],
)  # fmt: skip


def text(width: int = 79, height: int = 24) -> str:
    return "\n".join(render(line, width, colour=False) for line in draw(PICTURE, width + 1, height))


def test_what_is_to_be_seen() -> None:
    shown = text()
    assert "2/5  tasks-2 is killed" in shown
    assert "01:15.2" in shown
    assert "errors 0   retries 3   p50  6.2 ms   p99   21 ms" in shown
    assert "60/s  in rotation" in shown
    assert "0/s  dead, ejected" in shown
    assert "open, next trial in 1.5 s   refused 12, each in 1.2 ms" in shown
    assert shown.endswith("event 99")  # the latest ones, as many as fit


def test_a_line_for_logs() -> None:
    assert plain(PICTURE) == (
        "tasks  120 req/s  tasks-1  60/s  tasks-2   0/s  tasks-3  60/s  p50  6.2 ms  p99   21 ms  "
        "errors 0  retries 3 | model   6 req/s  breaker open"
    )


@given(width=st.integers(1, 300), height=st.integers(1, 100))
def test_it_fits_on_any_screen(width: int, height: int) -> None:
    lines = draw(PICTURE, width, height)
    assert len(lines) < max(height, 2)
    assert all(len(render(line, width - 1, colour=False)) < max(width, 2) for line in lines)


@pytest.mark.parametrize(
    ("known", "rotation", "dead", "state"),
    [
        ({"x"}, {"x"}, set(), "in rotation"),
        ({"x"}, {"x"}, {"x"}, "dead, not noticed yet"),
        ({"x"}, set(), {"x"}, "dead, ejected"),
        ({"x"}, set(), set(), "ejected"),
        (set(), set(), set(), "not registered"),
    ],
)
def test_states(known: set[str], rotation: set[str], dead: set[str], state: str) -> None:
    seen = Seen(in_rotation=frozenset(rotation), known=frozenset(known))
    fields = {name: getattr(PICTURE, name) for name in Picture.__dataclass_fields__}
    picture = Picture(**fields | {"seen_tasks": seen, "dead": frozenset(dead)})
    assert state_of("x", picture)[0] == state


def test_a_terminal_is_left_as_it_was_found() -> None:
    out = io.StringIO()
    terminal = Terminal(out, colour=True)
    terminal.open()
    terminal.show(PICTURE)
    terminal.close()
    shown = out.getvalue()
    assert shown.startswith("\x1b[?1049h\x1b[?25l")
    assert shown.endswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[31;1mdead, ejected\x1b[0m" in shown


def test_plain_lines_have_no_escapes() -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.open()
    lines.event(1.0, "1/5  Steady", chapter=True)
    lines.event(2.0, "killed", chapter=False)
    lines.show(PICTURE)
    lines.close()
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().startswith("\n[  1.0 s] 1/5  Steady\n[  2.0 s] * killed\n[ 75.2 s]   tasks  120 req/s")
