"""The one thread that owns a database, and the event loop's jobs for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from threading import Event, Thread
from typing import Generic, TypeVar

J = TypeVar("J")
A = TypeVar("A")


class Worker(Generic[J]):
    """Jobs go in on the loop by :meth:`submit` and wait in :attr:`jobs`, which the thread takes them from, in their
    order; what it has to say goes back by :meth:`post`."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._wake = Event()
        self._thread: Thread | None = None
        self.jobs: deque[J] = deque()

    # -- the loop ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Return whether the thread was started and has not :meth:`ended`."""
        return self._thread is not None

    def start(self, run: Callable[[], None]) -> None:
        """Start the thread. It ends when ``run`` returns."""
        self._thread = Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, job: J) -> None:
        """Append a job."""
        self.jobs.append(job)
        self._wake.set()

    def wake(self) -> None:
        """Let the thread wake up without a job."""
        self._wake.set()

    async def ended(self) -> None:
        """Wait until the thread has ended and all that it posted is done."""
        thread = self._thread
        while thread is not None and thread.is_alive():  # noqa: ASYNC110 - what it posts needs the loop to run
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        self._thread = None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float | None) -> None:
        """Wait until there is a job or :meth:`wake` was called, at most ``seconds`` (None: without end)."""
        if not self.jobs:
            self._wake.wait(seconds)
        self._wake.clear()

    def post(self, call: Callable[[A], None], argument: A) -> None:
        """Call a function on the loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no result is awaited any more
            self._loop.call_soon_threadsafe(call, argument)
