"""The section faults: what it means, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.errors import ConfigError, Problem
from sidecar.config.faults import FaultSettings
from sidecar.config.load import load_text
from sidecar.config.schema import Config
from sidecar.config.show import effective
from sidecar.config.traffic import Match

HEAD = "service: {name: s}\nregistry: none\n"


def read(faults: str, more: str = "") -> Config:
    up = f'    bind: 127.0.0.1:9000\n    endpoints: ["10.0.0.1:80"]\n    faults: {faults}\n'
    return load_text(f"{HEAD}upstreams:\n  up:\n{up}{more}", "s.yaml", {})


def faults(text: str) -> Any:
    return read(text).upstreams["up"].policies["faults"]


def problems(text: str, more: str = "") -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        read(text, more)
    return list(caught.value.problems)


def test_as_in_the_contract() -> None:
    assert faults('[{match: {path: "/slow*"}, share: 10%, delay: 2s}]') == (
        FaultSettings(match=Match(path="/slow*"), share=0.1, delay=2.0),
    )
    assert faults("[{abort: 503}, {reset: true}, {throttle: 10KiB/s}]") == (
        FaultSettings(abort=503), FaultSettings(reset=True), FaultSettings(throttle=10240),
    )  # fmt: skip
    assert faults("off") == ()
    assert faults("[{delay: 1, abort: 500, until: 2026-12-01T10:30:00+01:00}]")[0].until == 1796117400.0


def test_what_is_shown_can_be_read_again() -> None:
    text = (
        "[{match: {methods: [GET]}, share: 12.5%, delay: 250ms, throttle: 1MiB/s, until: 2026-12-01T10:30:00Z},"
        " {abort: 418}, {reset: true, throttle: null}]"
    ).replace(", throttle: null", "")
    shown = effective(read(text))["upstreams"]["up"]["faults"]
    assert shown[0] == {
        "match": {"path": "*", "methods": ["GET"], "headers": {}}, "share": 0.125, "delay": 0.25, "reset": False,
        "throttle": "1MiB/s", "until": "2026-12-01T10:30:00.000Z",
    }  # fmt: skip
    assert faults(str(shown).replace("False", "false").replace("True", "true")) == faults(text)


@pytest.mark.parametrize("rate", ["1B/s", "1000B/s", "1KiB/s", "1536B/s", "5MiB/s", "1024MiB/s"])
def test_rates_are_shown_as_they_are_written(rate: str) -> None:
    shown = effective(read(f"[{{throttle: {rate}}}]"))["upstreams"]["up"]["faults"]
    assert shown[0]["throttle"] == rate


@pytest.mark.parametrize(
    ("text", "path", "message", "nearest"),
    [
        ("[{share: 10%}]", "faults[0]", "does not say what it does", ""),
        ("[{reset: false}]", "faults[0]", "does not say what it does", ""),
        ("[{abort: 503, reset: true}]", "faults[0]", "does more than one thing", ""),
        ("[{delay: 1s, abort: 503, throttle: 1KiB/s}]", "faults[0]", "does more than one thing", ""),
        ("[{abort: 200}]", "faults[0].abort", "is out of range", ""),
        ("[{delay: 1h}]", "faults[0].delay", "is out of range", ""),
        ("[{share: 110%, delay: 1s}]", "faults[0].share", "is out of range", ""),
        ("[{throttle: 10KiB}]", "faults[0].throttle", "is not a rate of bytes", "10KiB/s"),
        ("[{throttle: fast/s}]", "faults[0].throttle", "is not a rate of bytes", ""),
        ("[{throttle: 0B/s}]", "faults[0].throttle", "is out of range", ""),
        ("[{reset: true, until: tomorrow}]", "faults[0].until", "is not a time", ""),
        ("[{reset: true, until: 2026-12-01T10:00:00}]", "faults[0].until", "time zone", "2026-12-01T10:00:00Z"),
        ("[{reset: true, for: 5m}]", "faults[0].for", "is for PUT /faults", ""),
        ("[{dely: 5s}]", "faults[0].dely", "is not a known key", "delay"),
        ("[{abort: 503, match: {path: slow}}]", "faults[0].match.path", "is not allowed", ""),
        ("{abort: 503}", "faults", "has the wrong type", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(text: str, path: str, message: str, nearest: str) -> None:
    (first, *_) = problems(text)
    assert first.path == f"upstreams.up.{path}"
    assert message in first.message
    assert first.nearest == nearest


def test_connections_have_shares_delays_and_resets() -> None:
    found = problems('[{match: {path: "/a"}, delay: 1s}, {abort: 503}, {throttle: 1KiB/s}]', "    protocol: tcp\n")
    assert [it.path.rpartition(".")[2] for it in found] == ["match", "abort", "throttle"]
    assert all("protocol tcp" in it.message for it in found)
    config = read("[{share: 1%, delay: 1s, reset: true}]", "    protocol: tcp\n")
    assert config.upstreams["up"].policies["faults"]


def test_messages_have_none() -> None:
    (found,) = problems("[{reset: true}]", "    protocol: amqp\n")
    assert found.message.startswith("is not for protocol amqp")
