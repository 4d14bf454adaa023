"""The process of a rehearsal: what it is given, and what it tells."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest

from sidecar.agent.rehearsal import worker
from sidecar.config.show import effective, text
from support.configs import config_of

FILE = "service: {name: edge}\nupstreams: {shop: {bind: 127.0.0.1:9000, endpoints: ['10.0.0.1:80']}}"


def told(running: str, configuration: str = FILE) -> dict[str, Any]:
    """The last thing that it says."""
    said: list[dict[str, Any]] = []
    asked = {
        "running": running, "configuration": configuration, "segments": 0, "salt": 7, "generation": 0, "now": 1000.0,
        "wall": 1.7e9,
    }  # fmt: skip
    worker.work(io.BytesIO(pickle.dumps(asked)), said.append)
    return json.loads(json.dumps(said[-1]))  # type: ignore[no-any-return]


def test_without_a_record_nothing_is_different() -> None:
    found = told(text(effective(config_of(FILE))))
    assert found["result"]["decisions"] == 0


def test_a_dollar_sign_of_the_running_configuration_is_no_variable() -> None:
    routed = FILE.replace("endpoints:", "routes: [{match: {path: '/$${id}/*'}}], endpoints:")
    shown = effective(config_of(routed))
    assert "/${id}/*" in str(shown)
    assert told(text(shown))["result"]["decisions"] == 0


@pytest.mark.parametrize("bad", ["service: {nam: edge}", "service: {name: '${SECRET}'}", "[", ""])
def test_what_is_wrong_with_the_configuration_is_told(bad: str) -> None:
    found = told(text(effective(config_of(FILE))), bad)
    assert found["refused"]
    assert found["problems"][0].keys() == {"path", "message"}


def test_a_running_configuration_that_is_not_understood_is_told() -> None:
    assert told("service: {nam: edge}")["failed"].startswith("the running configuration is not understood: ")


def test_it_may_have_a_part_of_what_the_sidecar_may(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((256 << 20, 576 << 20), (64 << 30, worker.MOST_MEMORY)):
        monkeypatch.setattr(worker, "memory_limit", lambda limit=limit: limit)
        assert worker.memory() == most
