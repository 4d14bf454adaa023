"""What a worker of pytest-xdist does not tell: of a small test, to tell costs as much as to run it.

A setup or teardown that passed, and took too little time for ``--durations``, is not shown by anything; nor is it that
a test begins.
"""

from __future__ import annotations

from typing import Any

import pytest

#: Seconds from which on ``--durations`` shows one.
_SHOWN = 0.005


def told(report: pytest.TestReport) -> bool:
    """Whether somebody may want to know of it."""
    return report.when == "call" or not report.passed or report.duration >= _SHOWN


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Come between the worker and its wire, unless what is shown or written has all phases."""
    if not hasattr(config, "workerinput") or config.option.verbose > 0 or config.option.xmlpath:
        return
    plugins = config.pluginmanager
    worker: Any = next(it for it in plugins.get_plugins() if type(it).__name__ == "WorkerInteractor")
    send = worker.pytest_runtest_logreport

    def logreport(report: pytest.TestReport) -> None:
        if told(report):
            send(report)

    plugins.unregister(worker)
    worker.pytest_runtest_logreport = logreport
    worker.pytest_runtest_logstart = lambda: None
    plugins.register(worker)
