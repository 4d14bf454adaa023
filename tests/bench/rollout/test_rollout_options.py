"""What is staged for which arguments."""

from __future__ import annotations

import pytest

from bench.rollout.__main__ import candidates, options_of


def test_by_default_four_canaries_of_which_the_good_one_has_more_traffic() -> None:
    options = options_of([])
    found = candidates(options.rate, options.good_rate, options.only)
    assert [(it.name, it.kind, it.rate) for it in found] == [
        ("errors", "bad", 200), ("gross", "gross", 200), ("slow", "bad", 200), ("good", "good", 600),
    ]  # fmt: skip
    assert options.seconds <= 165


def test_short_is_less() -> None:
    options = options_of(["--short"])
    assert (options.seconds, options.only) == (60.0, ["gross", "slow"])
    assert options_of(["--short", "--only", "good", "--seconds", "20"]).only == ["good"]


def test_what_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options_of(["--only", "better"])
    assert "good" in capsys.readouterr().err
