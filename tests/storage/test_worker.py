from __future__ import annotations

import asyncio
import threading

from sidecar.storage.worker import Worker
from support.live import run


def test_jobs_are_done_in_their_order_by_one_thread_and_told_on_the_loop() -> None:
    async def main() -> None:
        worker: Worker[str] = Worker("test", asyncio.get_running_loop())
        told: list[tuple[str, str]] = []

        def tell(job: str) -> None:
            told.append((job, threading.current_thread().name))

        names: set[str] = set()

        def work() -> None:
            names.add(threading.current_thread().name)
            while True:
                worker.wait(None)
                while worker.jobs:
                    job = worker.jobs.popleft()
                    if not job:
                        return
                    worker.post(tell, job)

        states = [worker.running]
        worker.submit("a")  # before there is a thread
        worker.start(work)
        states.append(worker.running)
        for job in ("b", "c", ""):
            worker.submit(job)
        await worker.ended()
        assert [job for job, _ in told] == ["a", "b", "c"]
        assert {name for _, name in told} == {threading.current_thread().name}
        assert names == {"test"}
        assert [*states, worker.running] == [False, True, False]

    run(main)


def test_waiting_ends_by_itself_by_a_job_and_by_being_woken() -> None:
    async def main() -> None:
        worker: Worker[str] = Worker("test", asyncio.get_running_loop())
        worker.wait(0.0)
        worker.wake()
        worker.wait(None)
        worker.submit("a")
        worker.wait(None)
        worker.wait(None)  # it is still there

    run(main)


def test_nobody_is_told_when_the_loop_is_closed() -> None:
    loop = asyncio.new_event_loop()
    worker: Worker[str] = Worker("test", loop)
    loop.close()
    worker.post(print, "a")
