"""One short pass, with everything real."""

from __future__ import annotations

import os
from pathlib import Path

from bench.rabbitmq import find_server
from bench.spool.run import BODY_BYTES, RATE, measure
from support.examples import nightly
from support.processes import missing


@nightly
def test_a_pass(tmp_path: Path) -> None:
    find_server() or missing("there is no RabbitMQ: install the package rabbitmq-server")
    cores = sorted(os.sched_getaffinity(0))
    sample = measure("interpreted", tmp_path, (cores[0], cores[-1]), 0.2)
    assert sample.messages > RATE * 0.2
    assert sample.size > sample.messages * BODY_BYTES
    assert 0 < sample.p50 <= sample.p99
    assert min(sample.taken, sample.sent, sample.taking_cpu, sample.sending_cpu, sample.reopened) > 0
    assert sample.peak > 10 << 20
