"""``sidecar top`` as a process in a real terminal (a pty): what stands on its screen, and that it is given back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pytest

from support.fake_admin import fake_admin
from support.patience import PATIENCE

COLUMNS = 72
FIGURES: dict[str, Any] = {"rate": 20.0, "error_rate": 0.0, "p50_ms": 1.5, "p99_ms": 9.0}


def service(number: int, **more: Any) -> dict[str, Any]:
    return {
        "name": f"service-{number:02}", "kind": "service", "instances": 1, **FIGURES, "status": "healthy",
        "problem": "", **more,
    }  # fmt: skip


MESH = {
    "services": [
        *(service(number) for number in range(30)),
        service(
            30, status="not_answering", problem="it could not be asked: Connection refused, and that is a long text"
        ),
        service(31, error_rate=0.25),
        service(32, p99_ms=1300.0),
    ],
    "edges": [],
}


def _takes_it() -> None:
    """It is the terminal of this session: Ctrl-C there is a signal here."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """One with a few lines. ``screen`` is what stands on it: what is drawn is drawn from its top, a line each."""

    def __init__(self, lines: int, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self.resize(lines)
        self.before = termios.tcgetattr(theirs)
        self.seen = b""
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
        for name in ("NO_COLOR", "LINES", "COLUMNS"):
            env.pop(name, None)
        command = [sys.executable, "-m", "sidecar", "top", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, preexec_fn=_takes_it
        )

    def resize(self, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, COLUMNS, 0, 0))

    def read(self, until: bytes, from_here: bool = False) -> None:
        """Read until that was seen."""
        start = len(self.seen) if from_here else 0
        ends = time.monotonic() + PATIENCE
        while until not in self.seen[start:]:
            assert time.monotonic() < ends, self.seen.decode(errors="replace")
            if select.select([self._ours], [], [], 0.1)[0]:
                self.seen += os.read(self._ours, 65536)

    def screen(self) -> list[str]:
        """The last whole picture, without its colours."""
        pictures = self.seen.split(b"\x1b[H")[1:]
        whole = [it for it in pictures if b"\x1b[J" in it][-1].split(b"\x1b[J")[0]
        return re.sub(r"\x1b\[\d*m|\x1b\[K", "", whole.decode()).replace("\r", "").split("\n")

    def press(self, key: bytes) -> int:
        """Press it, and wait for the end: the exit code."""
        os.write(self._ours, key)
        self.read(b"\x1b[?1049l")
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self._ours)
        os.close(self._theirs)


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_it_stays_in_place_and_gives_the_terminal_back(key: bytes) -> None:
    with fake_admin({"mesh": (200, MESH)}) as url:
        terminal = Terminal(16, "--mesh", "--admin", url)
        try:
            terminal.read(b"q ends\x1b[K\x1b[J")
            assert terminal.seen.startswith(b"\x1b[?1049h\x1b[?25l"), "another screen, no cursor"
            shown = terminal.screen()
            assert len(shown) == 16, "it fills the screen, and no line more"
            assert shown[0].split() == ["SERVICE", "INSTANCES", "RATE", "ERRORS", "P50", "P99", "STATUS", "WHY"]
            assert "no answer" in shown[1], "the worst first"
            assert "failing" in shown[2]
            assert "25 % fail" in shown[2]
            assert re.fullmatch(r"… 20 more lines", shown[-2])
            assert "q ends" in shown[-1]
            assert b"\x1b[31mno answer\x1b[0m" in terminal.seen
            assert termios.tcgetattr(terminal._theirs) != terminal.before, "keys come at once"

            terminal.resize(40)
            terminal.read(b"\x1b[H", from_here=True)
            terminal.read(b"\x1b[J", from_here=True)
            terminal.read(b"service-29")
            assert not any("more lines" in line for line in terminal.screen()[:-2])

            assert terminal.press(key) == 0
            assert terminal.seen.endswith(b"\x1b[?25h\x1b[?1049l")
            assert termios.tcgetattr(terminal._theirs) == terminal.before
            # Nothing wraps, and nothing scrolls: each line ends by clearing its rest, with wrapping off.
            pictures = terminal.seen.split(b"\x1b[?7l\x1b[H")[1:]
            assert len(pictures) >= 2
            assert all(b"\x1b[?7h" in picture for picture in pictures)
        finally:
            terminal.close()
