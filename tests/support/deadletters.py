"""A spool on the disk with dead letters in it, for a sidecar that starts with it: no broker is needed for that."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.fake_spool import message
from support.spools import Driver, run


def prepare(path: Path, routing_keys: list[str], waiting: int = 3) -> None:
    """A spool of the upstream ``rabbitmq``: a dead letter for each routing key, and so many messages that wait."""
    path.mkdir(exist_ok=True)

    async def fill(driver: Driver) -> None:
        driver.now = time.time()
        letters = [
            message(
                b'{"task": %d, "prompt": "<b>bold</b>"}' % n, routing_key=key, at=driver.now - 300, headers={"n": n}
            )
            for n, key in enumerate(routing_keys)
        ]
        await driver.put(*letters)
        for it in letters:
            driver.spool.dead(it, "nacked", 0, "the queue is full")
        await driver.until(lambda: driver.spool.dead_letters.count == len(letters))
        await driver.put(*(message(routing_key="ai.waits", at=driver.now) for _ in range(waiting)))

    # In a thread, because Playwright has an event loop in the one that waits for this.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, path, fill).result()
