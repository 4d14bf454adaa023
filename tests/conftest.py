"""What is started once for all tests, because it takes seconds; and what no test may leave changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

import sidecar.filters.order  # noqa: F401 - filters declare their keys
from support.examples import THOROUGH, examples
from support.nursery import leave
from support.rabbitmq import RabbitMQ, broker

# An example that takes long says something about what else the machine does. `make test` tries the same ones each time,
# so that it says something about the change; new ones are drawn every night.
settings.register_profile(
    "unhurried",
    max_examples=examples(100),
    derandomize=not THOROUGH,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# One failure is enough for `make mutate`, the smallest takes long to find.
settings.register_profile(
    "mutate", settings.get_profile("unhurried"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile("unhurried")

pytest_plugins = [
    f"support.harness.{name}"
    for name in ("signals", "reaper", "scheduler", "time_limit", "garbage", "phases", "reports")
]


def pytest_configure() -> None:
    """Count what runs in the tests' own processes: what they start is slower else, and imports more than a sidecar."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Before the reaper looks for what was left."""
    leave()


def pytest_sessionstart() -> None:
    """Make sure that ``make test-compiled`` tests what is compiled."""
    if os.environ.get("SIDECAR_COMPILED") == "1":
        from sidecar.core import build
        from sidecar.http.h1 import head

        if not head.__file__.endswith(".so") or not (build.scanner() == build.C or build.wanted()):
            pytest.exit(f"this is not the compiled build: {head.__file__}", 1)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A broker that all tests share: what a test leaves in it has names that no other uses, and who stops, freezes or
    alarms it puts that right again."""
    with broker() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A sidecar in this process sets the levels of all of it, for whichever tests come next."""
    levels = {logger: logger.level for logger in (logging.root, logging.getLogger("sidecar"))}
    try:
        return (yield)
    finally:
        for logger, level in levels.items():
            if logger.level != level:
                logger.setLevel(level)
