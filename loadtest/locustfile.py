"""Two scenarios for locust, each with criteria that set its exit code (0 passed, 1 missed, 2 refused).

``burst``: 1000 requests within 10 s (``--within``), then the end. ``sustained``: 100 requests/s for ``--run-time``
(default 60 s; the real one is ``1h``). In both, at most 1 % may fail and p99 stays within ``--p99`` (default 500 ms;
for the inbound side of task decomposition: 200)::

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:9000 --scenario sustained --run-time 1h
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

# locust puts this file's own folder on the path, not the project's.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest.criteria import Criteria, Outcome, RefusedHost, require_allowed

BURST_REQUESTS = 1000
BURST_SECONDS = 10.0
BURST_USERS = 100

RATE = 100
SUSTAINED_USERS = 50
SUSTAINED_SECONDS = 60


class Run:
    """One run's own clock and counts; locust's statistics cannot tell when the last answer came."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.started = 0.0
        self.ended = 0.0
        self.begun = 0
        self.finished = 0

    def begin(self) -> bool:
        """Take one request of a burst; False when all are taken."""
        if self.begun >= BURST_REQUESTS:
            return False
        self.begun += 1
        return True


run = Run()


class Burst(FastHttpUser):
    """Asks again as soon as it was answered, until the burst's requests are used up."""

    # An answer that takes long is late, which has a criterion of its own.
    network_timeout = 60.0
    connection_timeout = 60.0

    @task
    def ask(self) -> None:
        if run.begin():
            self.client.get(self.environment.parsed_options.path)
        else:
            gevent.sleep(0.5)


class Sustained(FastHttpUser):
    """Asks at a steady rate; with enough of them, one slow answer does not lower the rate of all."""

    network_timeout = 10.0
    connection_timeout = 5.0
    wait_time = constant_throughput(RATE / SUSTAINED_USERS)

    def on_start(self) -> None:
        gevent.sleep(random.uniform(0, SUSTAINED_USERS / RATE))  # so that they do not all ask at once, for ever

    @task
    def ask(self) -> None:
        self.client.get(self.environment.parsed_options.path)


class Shape(LoadTestShape):
    """All users at once, and the end: of the requests, or of the time."""

    use_common_options = True  # keeps --run-time usable beside a shape

    def tick(self) -> tuple[int, float, list[type[FastHttpUser]]] | None:
        options = self.runner.environment.parsed_options
        if options.scenario == "burst":
            # A second more than is allowed: who is late should miss the criterion, not vanish from the count.
            over = run.finished >= BURST_REQUESTS or self.get_run_time() > options.within + 1
            return None if over else (BURST_USERS, BURST_USERS, [Burst])
        over = self.get_run_time() > (options.run_time or SUSTAINED_SECONDS)
        return None if over else (SUSTAINED_USERS, SUSTAINED_USERS, [Sustained])


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--scenario", choices=["burst", "sustained"], default="burst", help="which load to make")
    parser.add_argument("--path", default="/", help="what to GET (default /)")
    parser.add_argument(
        "--within", type=float, default=BURST_SECONDS, metavar="SECONDS", help="allowed for all of a burst (default 10)"
    )
    parser.add_argument(
        "--p99", type=float, default=500.0, metavar="MS", help="allowed p99, milliseconds (default 500)"
    )


@events.init.add_listener
@events.test_start.add_listener
def refuse_others(environment: Environment, **_: Any) -> None:
    """Before anything is sent, and again at every start: the web interface can change the host."""
    try:
        require_allowed(environment.host, os.environ)
    except RefusedHost as error:
        print(f"locustfile: {error}", file=sys.stderr)
        sys.exit(2)
    run.reset()


@events.request.add_listener
def count(response_time: float, **_: Any) -> None:
    run.ended = time.monotonic()
    run.started = run.started or run.ended - (response_time or 0.0) / 1000
    run.finished += 1


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Say whether the run passed, and let locust exit accordingly."""
    options = environment.parsed_options
    total = environment.stats.total
    outcome = Outcome(
        requests=total.num_requests,
        failures=total.num_failures,
        seconds=run.ended - run.started,
        p99=float(total.get_response_time_percentile(0.99) or 0),
    )
    if options.scenario == "burst":
        criteria = Criteria(p99=options.p99, requests=BURST_REQUESTS, within=options.within)
    else:
        criteria = Criteria(p99=options.p99, rate=0.95 * RATE)
    misses = criteria.misses(outcome)
    print(f"{options.scenario}: {'missed' if misses else 'passed'}. {outcome}")
    for miss in misses:
        print(f"  {miss}")
    environment.process_exit_code = 1 if misses else 0
