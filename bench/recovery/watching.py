"""A client's process, and what it has said so far."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.recovery.kinds import environment

#: Lines that are kept; a client says about 20 in a second.
_MOST: Final = 50_000
_END_SECONDS: Final = 3.0


class Watched:
    """A client of one kind on one way. Times are seconds of the epoch, as its stamps are."""

    def __init__(self, kind: str, way: str, command: Sequence[str], port: int, queue: str, folder: Path) -> None:
        self.kind = kind
        self.way = way
        #: Why it gave up.
        self.gone = ""
        self._told_to_end = False
        self._oks: list[tuple[float, float]] = []
        self._gots: list[float] = []
        self._fails: list[tuple[float, str]] = []
        with (folder / f"{queue}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(port), queue],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                cwd=folder,
                env=environment(folder),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, about = line.strip().partition(" ")
            self._take(word, about, time.time())
        if not self._told_to_end and not self.gone:
            self.gone = "its process ended"

    def _take(self, word: str, about: str, now: float) -> None:
        if word == "ok" and len(self._oks) < _MOST:
            with suppress(ValueError):
                self._oks.append((now, float(about)))
        elif word == "got" and len(self._gots) < _MOST:
            self._gots.append(now)
        elif word in ("fails", "unsent") and len(self._fails) < _MOST:
            self._fails.append((now, about if word == "fails" else ""))
        elif word == "gone":
            self.gone = about or "without a word"

    def published(self, since: float) -> float | None:
        """When the first publish that was made after ``since`` was confirmed."""
        return next((now for now, stamp in self._oks if stamp >= since and now >= since), None)

    def consumed(self, since: float) -> float | None:
        """When the first message came after ``since``."""
        return next((now for now in self._gots if now >= since), None)

    def working(self, since: float) -> float | None:
        """When it was doing both."""
        published, consumed = self.published(since), self.consumed(since)
        return None if published is None or consumed is None else max(published, consumed)

    def failed(self, since: float, until: float = float("inf")) -> list[str]:
        """What it was told by tries to connect, and by connections, in that time; each text once, numbers aside."""
        texts = {re.sub(r"\d+", "N", text): text for now, text in self._fails if text and since <= now < until}
        return list(texts.values())

    @property
    def ended(self) -> bool:
        """It has given up, or its process is no more."""
        return bool(self.gone) or self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to end; leaving the block waits for that."""
        self._told_to_end = True
        if self._process.poll() is None:
            self._process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_END_SECONDS)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
