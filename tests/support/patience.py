"""How long tests wait for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Seconds until it counts as not coming. This is what a failure costs, and no measure of anything: on a machine that
#: does other work too, everything may take long. It is less than a test's limit, so that the failure says what did not
#: come.
PATIENCE: Final = 120.0


async def until(condition: Callable[[], object], what: str = "it happened", seconds: float = PATIENCE) -> None:
    """Let the loop run until the condition is true; fail with ``what`` when it is not in time."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
