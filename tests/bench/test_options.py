"""What is measured for which arguments."""

from __future__ import annotations

import pytest

from bench.__main__ import PAGE, _command, _options


def test_everything_is_measured_and_written_by_default() -> None:
    options = _options([])
    assert list(options.names) == ["http", "amqp", "spool", "telemetry"]
    assert options.names["spool"] == ["sidecar", "interpreted"]
    assert options.names["telemetry"] == ["bare", "telemetry"]
    assert options.names["amqp"] == ["sidecar", "interpreted", "haproxy", "direct", "traced"]
    assert options.output == PAGE


def test_one_part() -> None:
    options = _options(["--part", "amqp"])
    assert list(options.names) == ["amqp"]
    assert options.output == PAGE


def test_some_contenders_are_only_printed_and_leave_out_a_part_that_has_none_of_them() -> None:
    assert _options(["--only", "envoy"]).names == {"http": ["envoy"]}
    options = _options(["--only", "direct,relay"])
    assert options.names == {"http": ["direct"], "amqp": ["relay", "direct"]}
    assert options.output is None


@pytest.mark.parametrize(
    "arguments",
    [["--only", "traefik"], ["--part", "amqp", "--only", "envoy"], ["--repeats", "0"], ["--part", "grpc"]],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _options(arguments)
    assert capsys.readouterr().err


def test_the_section_says_how_it_is_measured_again() -> None:
    assert _command([], {"PYTHON": "python3"}) == "make bench"
    arguments = ["--part", "http"]
    assert (
        _command(arguments, {"PYTHON": "/usr/bin/python3"}) == "make bench PYTHON=/usr/bin/python3 'ARGS=--part http'"
    )
