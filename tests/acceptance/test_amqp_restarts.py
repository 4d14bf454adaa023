"""A broker that is killed and stopped under publishers and consumers, and comes back with its data or without: nothing
that was confirmed is lost, but what would have been lost without the sidecar, too.

Two restarts within the broker's virtual machine here, at moments that stay the same; two hundred in all ways with
``SIDECAR_SOAK=1``, or as many as ``SIDECAR_RESTARTS`` says, whose moments and ways ``SIDECAR_SEED`` chooses.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.restarts.soak import QUICK_WAYS, WAYS, Soak, start_broker

RESTARTS = int(os.environ.get("SIDECAR_RESTARTS") or (200 if os.environ.get("SIDECAR_SOAK") == "1" else 0))
#: One that keeps the broker's data, and one that does not.
QUICK_SEED = 7
#: Restarts from one balance to the next.
ROUND = 10


def test_nothing_is_lost_over_restarts_of_the_broker(tmp_path: Path) -> None:
    seed = int(os.environ.get("SIDECAR_SEED") or (time.time() if RESTARTS else QUICK_SEED))
    print(f"SIDECAR_SEED={seed}")
    restarts, ways = (RESTARTS, WAYS) if RESTARTS else (2, QUICK_WAYS)
    with start_broker(tmp_path) as broker, Soak(tmp_path, broker.ready(), seed, ways) as soak:
        for number in range(1, restarts + 1):
            soak.end_broker()
            if number % ROUND == 0 or number == restarts:
                soak.settle()
                print(f"after {number} restarts, {soak.ends}\n{soak.ledger}", flush=True)
        soak.end()
        assert not soak.spooled.errors()
        assert not soak.ledger.lost, "\n".join(soak.ledger.lost[:20])
        assert soak.ledger.fates["consumed"] > 100 * restarts
        assert RESTARTS or len(soak.ends) == 2
