"""A broker that ends under publishers and consumers, and comes back with its data or without: nothing that was
confirmed is lost, but what would have been lost without the sidecar, too.

Two restarts within the broker's virtual machine, at moments that stay the same, for each change. Four every night, in
all ways: it is killed and stopped, too; two hundred with ``SIDECAR_SOAK=1``, or as many as ``SIDECAR_RESTARTS`` says.
``SIDECAR_SEED`` chooses their moments and ways.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support.examples import THOROUGH
from support.restarts.soak import QUICK_WAYS, WAYS, Soak, start_broker

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
RESTARTS = int(os.environ.get("SIDECAR_RESTARTS") or (200 if SOAK else 4 if THOROUGH else 0))
#: One that keeps the broker's data, and one that does not.
QUICK_SEED = 7
#: Restarts from one balance to the next.
ROUND = 10


@pytest.mark.costly
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
