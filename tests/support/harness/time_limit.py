"""A test that hangs fails, with every stack printed, and what it has started is ended; the others go on.

A signal interrupts the main thread, again and again until the phase (setup, call or teardown) has ended. A test that
cannot be interrupted (it hangs in native code) takes its process along some time later: pytest-xdist then makes
another worker, and :mod:`support.harness.scheduler` gives it the tests that are left.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest

from support.harness import reaper

#: Seconds between one interruption and the next, for what catches the first, or hangs once more in its clean-up; less
#: where the limit is less.
AGAIN = 5.0

_LIMIT = pytest.StashKey[float]()
_STDERR = pytest.StashKey[int]()
_STARTED = pytest.StashKey[str]()
_HUNG = pytest.StashKey[bool]()
#: When this process ends, on the monotonic clock; 0: it does not.
_watched_until = 0.0


class TimedOut(KeyboardInterrupt):
    """A test's time is over. Nothing else goes through an event loop: asyncio and uvloop put any other exception of a
    callback into their log."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("time_limit", "seconds that each phase of a test may take; SIDECAR_SOAK=1: 60 times that")
    parser.addini("time_limit_exit", "seconds until a test that cannot be interrupted ends its process", default="60")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LIMIT] = float(config.getini("time_limit")) * (60 if os.environ.get("SIDECAR_SOAK") == "1" else 1)
    config.stash[_STDERR] = os.dup(2)  # output is captured while a test runs
    signal.signal(signal.SIGALRM, _interrupt)


def pytest_sessionfinish() -> None:
    _disarm()


def pytest_unconfigure(config: pytest.Config) -> None:
    _disarm()
    os.close(config.stash[_STDERR])


def pytest_enter_pdb() -> None:
    _disarm()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    yield from _bounded(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    # Only what starts in this phase is the test's alone: a server that its setup starts may be for others, too.
    with reaper.marking() as mark:
        item.stash[_STARTED] = mark
        yield from _bounded(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    try:
        yield from _bounded(item)
    finally:
        started = item.stash.get(_STARTED, "")
        if started and item.stash.get(_HUNG, False):
            for command in reaper.end(started):
                item.add_report_section("teardown", "ended", command)


def _bounded(item: pytest.Item) -> Generator[None]:
    limit = item.config.stash[_LIMIT]
    _watch(limit, float(item.config.getini("time_limit_exit")), item.config.stash[_STDERR])
    signal.setitimer(signal.ITIMER_REAL, limit, min(limit, AGAIN))
    try:
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TimedOut as error:
        item.stash[_HUNG] = True
        first: BaseException = error  # where it hung at first, not in which of its clean-ups
        while isinstance(first.__context__, TimedOut):
            first = first.__context__
        text = f"not done after {limit:g} s\n\n{first}"
    pytest.fail(text, pytrace=False)


def _watch(limit: float, leave: float, fd: int) -> None:
    """Have this process end when the phase that begins has not ended ``leave`` seconds after its limit, or one limit
    later. That takes a thread, which costs as much as a small test: one watches all phases of some minutes."""
    global _watched_until
    now = time.monotonic()
    if _watched_until < now + limit + leave:
        _watched_until = now + 2 * limit + leave
        faulthandler.dump_traceback_later(2 * limit + leave, file=fd, exit=True)


def _disarm() -> None:
    global _watched_until
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    _watched_until = 0.0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TimedOut(stacks(frame))


def stacks(current: FrameType | None) -> str:
    """Where every thread is, and every task of the loop that runs in this one; ``current``: this thread's frame."""
    lines: list[str] = []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    this = threading.get_ident()
    for ident, frame in sys._current_frames().items():
        stack = list(traceback.walk_stack(current if ident == this else frame))[::-1]
        runner = [number for number, (it, _) in enumerate(stack) if "/_pytest/" in it.f_code.co_filename]
        if ident == this and runner:
            stack = stack[runner[-1] + 1 :]
        lines += [f"thread {names.get(ident, ident)}:\n", *traceback.StackSummary.extract(iter(stack)).format()]
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # there is no loop
        tasks = set()
    for task in tasks:
        frames = traceback.StackSummary.extract(_suspended(task.get_coro()))
        lines += [f"task {task.get_name()}:\n", *frames.format()]
    return "".join(lines)


def _suspended(coroutine: Any) -> Iterator[tuple[FrameType, int]]:
    """The frames of a coroutine that waits; a task only tells the first."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame, frame.f_lineno
        coroutine = coroutine.cr_await
