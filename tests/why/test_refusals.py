"""Stories of what was refused before it was a request."""

from __future__ import annotations

from sidecar.agent.assembly import REFUSALS_BURST, REFUSALS_RATE
from support.http import Stage


def test_a_flood_of_them_does_not_push_out_the_rest() -> None:
    stage = Stage(why=True)
    for _ in range(3 * REFUSALS_BURST):
        stage.client().says(b"nonsense\r\n\r\n")
    assert [story["error"] for story in stage.stories] == ["bad_request"] * REFUSALS_BURST
    stage.advance(2.0)
    for _ in range(3 * REFUSALS_BURST):
        stage.client().says(b"nonsense\r\n\r\n")
    assert len(stage.stories) == REFUSALS_BURST + 2 * REFUSALS_RATE
    assert stage.stats.rejected["bad_request"] == 6 * REFUSALS_BURST
