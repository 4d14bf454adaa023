"""The writer: never in the way, and honest about what it dropped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.records import AccessLog, AccessRecord
from sidecar.telemetry import logs
from sidecar.telemetry.logs import LogWriter, setup

ROOT = Path(__file__).parents[2]
ACCESS = AccessRecord(0.0, "inbound", "tasks", "GET", "/", 200, None, 0.1, 0, 0, None, 1, "127.0.0.1", "r", None)


class Pipe:
    """What the writer writes to. Read it only after the writer was closed, or where the text says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def text(self) -> str:
        """Everything, up to the end."""
        self.close_writer()
        found = b""
        while more := os.read(self.reader, 65536):
            found += more
        return found.decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def fill(self) -> None:
        """Make the next write block."""
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"\n" * 65536)
        except BlockingIOError:
            os.set_blocking(self.writer, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close_writer()
    os.close(made.reader)


@contextlib.contextmanager
def logging_to(pipe: Pipe, level: str = "info", format: str = "json") -> Iterator[LogWriter]:
    """Set up, and put everything back that is global."""
    names = [None, "sidecar", "aiohttp.access", "urllib3"]
    handlers = list(logging.root.handlers)
    levels = [logging.getLogger(name).level for name in names]
    writer = setup(level, format, "tasks", pipe.writer)
    try:
        yield writer
    finally:
        writer.close()
        logging.root.handlers[:] = handlers
        for name, before in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(before)


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_lines_come_in_order(pipe: Pipe) -> None:
    with logging_to(pipe) as writer:
        access = AccessLog("all", writer.put)
        for n in range(500):
            logging.getLogger("sidecar.x").info("%d", n)
            access.record(ACCESS._replace(status=n))
        reader = _InThread(pipe)
    found = [json.loads(line) for line in reader.text().splitlines()]
    assert [line["msg"] for line in found if line["logger"] == "sidecar.x"] == [str(n) for n in range(500)]
    assert [line["status"] for line in found if line["logger"] == "sidecar.access"] == list(range(500))


def test_lines_come_without_being_closed(pipe: Pipe) -> None:
    with logging_to(pipe):
        logging.getLogger("sidecar.x").info("now")
        assert json.loads(os.read(pipe.reader, 65536))["msg"] == "now"


def test_a_pipe_that_nobody_reads_stops_nobody(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUE", 100)
    pipe.fill()
    with logging_to(pipe) as writer:
        logger = logging.getLogger("sidecar.x")
        logger.info("the writer is stuck with this one")
        until(lambda: writer._queue.qsize() == 0)
        for _ in range(100):
            logger.info("kept")
        for _ in range(7):
            logger.info("dropped")
        AccessLog("all", writer.put).record(ACCESS)
        assert writer.dropped == 8
        reader = _InThread(pipe)
    lines = [json.loads(line) for line in reader.text().splitlines() if line]
    assert sum(line["msg"] == "kept" for line in lines) == 100
    told = [line["msg"] for line in lines if line["logger"] == "sidecar.log"]
    assert told == ["8 log lines were dropped: the log is read too slowly"]


class _InThread:
    """Reads a pipe to its end in a thread."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._found = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while more := os.read(self._pipe.reader, 65536):
            self._found += more

    def text(self) -> str:
        self._pipe.close_writer()
        self._thread.join(60)
        return self._found.decode()


def test_the_end_is_bounded_when_nobody_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.1)
    pipe.fill()
    with logging_to(pipe) as writer:
        logging.getLogger("sidecar.x").info("never")
        writer.close()
        writer.close()
        reader = _InThread(pipe)  # lets the thread go on, and end
        writer._thread.join(60)
    assert "never" in reader.text()


def test_a_reader_that_is_gone_costs_lines_only(pipe: Pipe) -> None:
    reader = os.dup(pipe.reader)
    with logging_to(pipe) as writer:
        os.close(pipe.reader)
        os.close(reader)
        logging.getLogger("sidecar.x").info("to nobody")
        until(lambda: writer.dropped == 1)
        assert writer._thread.is_alive()
    pipe.reader, other = os.pipe()
    os.close(other)


def test_a_descriptor_that_somebody_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    with logging_to(pipe):
        for _ in range(20):
            logging.getLogger("sidecar.x").info("x" * 10_000)
        reader = _InThread(pipe)
    assert len(reader.text()) > 200_000


def test_long_targets_are_cut_before_they_wait(pipe: Pipe) -> None:
    with logging_to(pipe) as writer:
        writer.put(ACCESS._replace(target="/" + "x" * 8000))
    (line,) = pipe.lines()
    assert len(line["target"]) == logs.MAX_TARGET + 1


def test_levels(pipe: Pipe) -> None:
    with logging_to(pipe, level="warning") as writer:
        ours, library = logging.getLogger("sidecar.x"), logging.getLogger("library")
        ours.info("hidden")
        library.info("hidden")
        writer.set_level("debug")
        ours.debug("ours")
        library.debug("hidden: libraries tell too much")
        library.info("library")
        writer.set_level("error")
        ours.warning("hidden")
        with pytest.raises(ValueError, match=r"no such level: 'loud'; there are debug, info, warning, error"):
            writer.set_level("loud")
        ours.error("still error")
    assert [line["msg"] for line in pipe.lines()] == ["ours", "library", "still error"]


def test_text_for_people(pipe: Pipe) -> None:
    with logging_to(pipe, format="text"):
        logging.getLogger("sidecar.x").info("hello", extra={"n": 1})
    assert pipe.text().endswith(" info    sidecar.x hello n=1\n")


def test_warnings_of_python_are_logged(pipe: Pipe) -> None:
    with logging_to(pipe), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)  # pytest has put its own hook over the first one
        warnings.warn("old ways", stacklevel=1)
    (line,) = pipe.lines()
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "old ways" in line["msg"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("all", [True, True, True, True]), ("errors", [False, False, True, True]), ("off", [False, False, False, False])],
)
def test_which_exchanges_get_a_line(pipe: Pipe, mode: str, expected: list[bool]) -> None:
    with logging_to(pipe) as writer:
        log = AccessLog(mode, writer.put)
        cases = [(200, ""), (404, None), (500, None), (429, "rate_limited")]
        assert [log.enabled_for(status, error) for status, error in cases] == expected


def test_what_was_logged_last_is_written_at_the_interpreters_end() -> None:
    program = (
        "import logging; from sidecar.telemetry.logs import setup\n"
        "setup('info', 'json', 'tasks'); logging.getLogger('sidecar.x').info('last words')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stderr)["msg"] == "last words"


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_it_wants_none(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, terminals = os.openpty()
    try:
        writer = LogWriter("text", "tasks", terminals)
        writer.put(ACCESS)
        writer.close()
        line = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(terminals)
    status = "\x1b[32m200\x1b[0m" if coloured else "200"
    assert f"inbound tasks GET / {status} 100ms" in line
    assert ("\x1b" in line) is coloured
