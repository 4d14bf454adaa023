"""The views of the story: a terminal that is redrawn in place, or plain lines for logs and pipes."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Protocol, TextIO

from sidecar.demo.picture import Line, Picture, draw, plain

STYLES = {"title": "7;1", "strong": "1", "faint": "2", "good": "32", "warn": "33", "bad": "31;1", "bar": "36"}

# Alternate screen and no cursor, and back. What was on the terminal before is there again afterwards.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"


class View(Protocol):
    """What the demo is shown on. ``interval``: seconds between two pictures; ``lasting``: what was shown can still be
    read when it is closed."""

    interval: float
    lasting: bool

    def open(self) -> None: ...

    def event(self, clock: float, text: str, chapter: bool) -> None: ...

    def show(self, picture: Picture) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """Redraws one screen, four times a second. Each frame is one write that overwrites the last one: no flicker."""

    interval = 0.25
    lasting = False

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out = out
        self._colour = colour
        self._size = os.terminal_size((0, 0))

    def open(self) -> None:
        self._write(_ENTER)

    def event(self, clock: float, text: str, chapter: bool) -> None:
        """Is in the next picture."""

    def show(self, picture: Picture) -> None:
        size = shutil.get_terminal_size()
        clear = "\x1b[2J" if size != self._size else ""
        self._size = size
        full = "█" if can_say("█", self._out) else "#"
        lines = draw(picture, size.columns, size.lines, full)
        frame = "\x1b[K\r\n".join(render(line, size.columns - 1, self._colour) for line in lines)
        self._write(f"{clear}\x1b[H{frame}\x1b[K\x1b[J")

    def close(self) -> None:
        self._write(_LEAVE)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class Lines:
    """A line per event, and one per second."""

    interval = 1.0
    lasting = True

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def open(self) -> None:
        """Nothing to prepare."""

    def event(self, clock: float, text: str, chapter: bool) -> None:
        self._print(f"\n[{clock:5.1f} s] {text}" if chapter else f"[{clock:5.1f} s] * {text}")

    def show(self, picture: Picture) -> None:
        self._print(f"[{picture.clock:5.1f} s]   {plain(picture)}")

    def close(self) -> None:
        """Nothing to put back."""

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def render(line: Line, width: int, colour: bool) -> str:
    """Return a line as text, cut at ``width`` characters."""
    parts = []
    for text, style in line:
        piece = text[:width]
        width -= len(piece)
        parts.append(f"\x1b[{STYLES[style]}m{piece}\x1b[0m" if colour and style and piece else piece)
    return "".join(parts)


def can_say(text: str, out: TextIO) -> bool:
    """Return whether the output's encoding has these characters."""
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def on_terminal(out: TextIO) -> bool:
    """Return whether this is a terminal that understands cursor movements."""
    return out.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def choose(out: TextIO = sys.stdout) -> View:
    """Return the view that fits the output."""
    if on_terminal(out):
        return Terminal(out, colour=not os.environ.get("NO_COLOR"))
    return Lines(out)
