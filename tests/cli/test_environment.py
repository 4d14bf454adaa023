"""A variable that asks for what cannot be had is a mistake that is told, not a traceback."""

from __future__ import annotations

import pytest

from sidecar.cli.main import main
from sidecar.core import build


def test_what_is_to_read_heads_is_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SIDECAR_SCANNER", "rust")
    assert main(["--version"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "SIDECAR_SCANNER: what is to read heads and AMQP",
        "    found:   'rust'",
        "    allowed: c, python",
    ]


def test_c_that_was_not_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise ImportError("cannot import name 'cut'")

    monkeypatch.setenv("SIDECAR_SCANNER", "c")
    monkeypatch.setattr(build, "facts", missing)
    assert main(["--version"]) == 2
    assert capsys.readouterr().err == (
        "SIDECAR_SCANNER: what is written in C was not built of this source (cannot import name 'cut'); "
        "make install does it, with a C compiler\n"
    )


@pytest.mark.parametrize("value", ["", "python"])
def test_what_can_be_had(value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SIDECAR_SCANNER", value)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sidecar ")
