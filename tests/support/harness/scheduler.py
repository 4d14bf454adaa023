"""pytest-xdist's ``--dist loadfile``, for workers that die.

Its own gives the test in which a worker died to the next worker, which dies of it as well. A file of which one test is
left is never begun, because a worker begins a test only when it knows the one that follows, or that none does. And what
is given to a worker that still collects is lost.

It also says which file comes next: what takes long begins first, and files that use a server that takes long to start
go to the worker that has it. Tests with processes mostly wait, and all others keep a core busy; so one worker is at the
others from the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from support.harness import reaper


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("first_files", "beginnings of paths: what takes long, and therefore comes first", "args")
    parser.addini("one_worker", "words: files that have one of them share a server of their worker", "args")


#: Workers that have the shared server, each its own: one alone would be at it when all others are done, and a third
#: would start it for a few files.
SHARERS = 2


#: Workers that are at files which mostly wait, while there are others.
WAITERS = 4
#: Beginnings of the paths of those.
WAITING = "tests/acceptance"


def next_file(
    files: Iterable[str],
    shares: Callable[[str], bool],
    rank: Callable[[str], int],
    sharer: bool,
    sharers: int = 0,
    waiters: int = 0,
) -> str | None:
    """The file that a worker gets next. ``sharer``: it has the shared server, and goes on with what uses that. Any
    other takes the first in ``rank``, but none that waits if enough ``waiters`` are at those; and it helps with what
    shares, from its end, when there is nothing else, and no more than a few ``sharers``: else there is none for it."""
    shared: list[str] = []
    others: list[str] = []
    for file in files:
        (shared if shares(file) else others).append(file)
    if shared and sharer:
        return shared[0]
    if others:
        busy = [file for file in others if not file.startswith(WAITING)] if waiters >= WAITERS else []
        return min(busy or others, key=rank)
    return shared[-1] if shared and sharers < SHARERS else None


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """A worker that dies costs the test that it was at."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        first: list[str] = config.getini("first_files")
        words: list[str] = config.getini("one_worker")
        self._sharers: list[Any] = []

        @cache
        def shares(file: str) -> bool:
            path = config.rootpath / file
            text = path.read_text(encoding="utf-8") if words and path.is_file() else ""
            return any(word in text for word in words)

        self._shares = shares
        self._rank = lambda file: next((at for at, it in enumerate(first) if file.startswith(it)), len(first))

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        file = self._split_scope(self.registered_collections[node][item_index])
        super().mark_test_complete(node, item_index, duration)
        if all(self.assigned_work[node].get(file, {False: False}).values()):
            del self.assigned_work[node][file]  # each event looks through all that is here

    def remove_node(self, node: Any) -> str | None:
        if node in self._sharers:
            self._sharers.remove(node)
        files = self.assigned_work[node]
        crashed = next((test for tests in files.values() for test, done in tests.items() if not done), None)
        for tests in files.values():
            if crashed in tests:
                tests[crashed] = True
        self.assigned_work[node] = {file: tests for file, tests in files.items() if not all(tests.values())}
        super().remove_node(node)
        return crashed

    def _reschedule(self, node: Any) -> None:
        if node in self.registered_collections:
            super()._reschedule(node)  # else it comes here again once it has collected

    def _assign_work_unit(self, node: Any) -> None:
        more = self._assign_file(node)
        while more and self._pending_of(self.assigned_work[node]) < 2:
            more = self._assign_file(node)
        if not more:
            node.shutdown()  # after what it has

    def _assign_file(self, node: Any) -> bool:
        """Whether there is more for it after this one."""
        if node not in self._sharers and len(self._sharers) < SHARERS and any(map(self._shares, self.workqueue)):
            self._sharers.append(node)
        file = self._next_file(node)
        if file is None:
            return False
        if self._shares(file) and node not in self._sharers:
            self._sharers.append(node)
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
        return self._next_file(node) is not None

    def _next_file(self, node: Any) -> str | None:
        waiters = sum(it is not node and self._waits(it) for it in self.assigned_work)
        return next_file(self.workqueue, self._shares, self._rank, node in self._sharers, len(self._sharers), waiters)

    def _waits(self, node: Any) -> bool:
        """Whether a worker is at a file of those that mostly wait, or has one before it."""
        files = self.assigned_work[node].items()
        return any(file.startswith(WAITING) and not all(tests.values()) for file, tests in files)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended; of one that was killed something may be left."""
    reaper.end(f"{os.environ[reaper.VARIABLE]}.{node.gateway.id}")
