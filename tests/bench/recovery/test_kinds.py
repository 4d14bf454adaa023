"""The clients' programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.processes import ROOT
from bench.recovery.kinds import KINDS, Kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_missing_has_a_place_where_it_comes_from(kind: Kind) -> None:
    assert kind.package
    assert kind.recovery
    sources = [part for part in [*kind.build, *kind.command] if part.startswith("{sources}")]
    assert len(sources) == 1
    assert Path(sources[0].format(sources=ROOT / "bench" / "recovery" / "clients")).is_file()


def test_a_client_that_is_not_here_is_missing() -> None:
    assert Kind("x", "somewhere", "", 1, ["x"], needs=["no-such-program"]).missing()
    assert Kind("x", "somewhere", "", 1, ["x"], modules=["no_such_module"]).missing()
    assert not Kind("x", "somewhere", "", 1, ["x"], needs=["sh"], modules=["json"]).missing()
