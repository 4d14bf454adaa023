"""pytest-xdist's ``--dist loadfile``, for workers that die.

Its own gives the test in which a worker died to the next worker, which dies of it as well. A file of which one test is
left is never begun, because a worker begins a test only when it knows the one that follows, or that none does. And what
is given to a worker that still collects is lost.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from support.harness import reaper


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """A worker that dies costs the test that it was at."""

    def remove_node(self, node: Any) -> str | None:
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
        super()._assign_work_unit(node)
        while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
            super()._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()  # after what it has


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended; of one that was killed something may be left."""
    reaper.end(f"{os.environ[reaper.VARIABLE]}.{node.gateway.id}")
