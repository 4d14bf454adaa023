"""A broker that is killed and stopped under publishers and consumers, and comes back with its data or without: nothing
that was confirmed is lost, but what would have been lost without the sidecar, too.

Two restarts here; two hundred with ``SIDECAR_SOAK=1``, or as many as ``SIDECAR_RESTARTS`` says. ``SIDECAR_SEED``
chooses the moments and the ways.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.restarts.soak import Soak, start_broker

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
RESTARTS = int(os.environ.get("SIDECAR_RESTARTS") or (200 if SOAK else 2))
#: Restarts from one balance to the next.
ROUND = 10


def test_nothing_is_lost_over_restarts_of_the_broker(tmp_path: Path) -> None:
    seed = int(os.environ.get("SIDECAR_SEED") or time.time())
    print(f"SIDECAR_SEED={seed}")
    with start_broker(tmp_path) as broker, Soak(tmp_path, broker.ready(), seed) as soak:
        for number in range(1, RESTARTS + 1):
            soak.end_broker()
            if number % ROUND == 0 or number == RESTARTS:
                soak.settle()
                print(f"after {number} restarts, {soak.ends}\n{soak.ledger}", flush=True)
        soak.end()
        assert not soak.spooled.errors()
        assert not soak.ledger.lost, "\n".join(soak.ledger.lost[:20])
        assert soak.ledger.fates["consumed"] > 100 * RESTARTS
