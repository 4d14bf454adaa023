"""The states of a rollout: what follows what, and what is believed of one that is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.resilience import rollout
from sidecar.resilience.rollout import NotNow, State, Unreadable, asked, begin, decode, encode, promoted, rolled_back

STEPS = (10, 25, 100)
FIRST = begin(STEPS, "shop-1", 100.0)


def test_step_by_step_until_it_is_done() -> None:
    state, seen = FIRST, []
    while state.phase != rollout.DONE:
        seen.append((state.weight, state.step(STEPS)))
        state = promoted(state, STEPS, "well", "shop-1", 101.0)
    assert seen == [(10, 1), (25, 2), (100, 3)]
    assert (state.revision, state.weight, state.attempt) == (4, 100, 1)
    with pytest.raises(NotNow, match="it is done; resume lets it begin anew"):
        promoted(state, STEPS, "", "", 0.0)
    again = asked("resume", state, STEPS, "ann", 102.0)
    assert (again.weight, again.attempt, again.revision, again.phase) == (10, 2, 5, rollout.RUNNING)


def test_other_steps_meanwhile_go_on_from_its_weight() -> None:
    state = promoted(FIRST, (5, 40, 60), "well", "shop-1", 101.0)
    assert (state.weight, state.step((5, 40, 60)), state.step((50,))) == (40, 2, 0)


def test_what_operators_may_ask_for() -> None:
    held = asked("pause", FIRST, STEPS, "ann", 101.0)
    assert (held.phase, held.weight, held.by) == (rollout.PAUSED, 10, "ann")
    with pytest.raises(NotNow):
        asked("pause", held, STEPS, "ann", 101.0)
    assert asked("resume", held, STEPS, "ann", 101.0).phase == rollout.RUNNING
    with pytest.raises(NotNow):
        asked("resume", FIRST, STEPS, "ann", 101.0)
    assert asked("promote", held, STEPS, "ann", 101.0)[2:4] == (rollout.RUNNING, 25)
    back = asked("rollback", held, STEPS, "ann", 101.0)
    assert (back.phase, back.weight, back.moving) == (rollout.ROLLED_BACK, 0, False)
    assert (held.revision, back.revision) == (2, 101), "above any that others may have come to"
    with pytest.raises(NotNow):
        rolled_back(back, "", "", 0.0)
    with pytest.raises(NotNow):
        asked("promote", back, STEPS, "ann", 101.0)


def test_what_follows_the_highest_revision_can_be_read() -> None:
    last = FIRST._replace(revision=1 << 53, attempt=1 << 53)
    assert decode(encode(last)) == last
    for action in ("promote", "pause", "rollback"):
        following = asked(action, last, STEPS, "ann", 101.0)
        assert decode(encode(following)) == following
        assert following.revision == last.revision
    again = asked("resume", asked("rollback", last, STEPS, "ann", 101.0), STEPS, "ann", 102.0)
    assert decode(encode(again)) == again


def test_a_state_is_read_as_it_was_written() -> None:
    assert decode(encode(FIRST)) == FIRST
    odd = FIRST._replace(reason="\x1b[31m" + "x" * 1000, by="\udc80")
    read = decode(encode(odd))
    assert read.reason.startswith("\\x1b[31m")
    assert len(read.reason) <= 400
    assert len(encode(odd)) < rollout.MAX_SIZE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        *[({"weight": odd}, "its weight is no number from 0 to 100") for odd in (101, -1, True, "10", 10.0, None)],
        *[({"phase": odd}, "its phase is none") for odd in ("flying", ["running"])],
        *[({"revision": odd}, "its revision is no number from 1 to ") for odd in (0, 1 << 60)],
        ({"attempt": 0}, "its attempt is no number from 1 to "),
        *[({"at": odd}, "its time is none") for odd in (-1, True, "now", 1e300, 1e12)],
        ({"reason": 5}, "its reason is no text"),
        ({"by": None}, "its by is no text"),
        ({"phase": "rolled_back"}, "it is rolled back, and has a weight"),
    ],
)
def test_what_makes_no_sense_is_not_believed(change: dict[str, Any], why: str) -> None:
    found = {**json.loads(encode(FIRST)), **change}
    with pytest.raises(Unreadable, match=f"^{why}"):
        decode(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        *[(odd, "it is no JSON") for odd in (b"", b"{", b"\xff", b"[" * 4000)],
        *[(odd, "it is no object") for odd in (b"[]", b"5")],
        (b" " * (rollout.MAX_SIZE + 1), f"it has more than {rollout.MAX_SIZE} bytes"),
        (b'{"weight": NaN}', "its phase is none"),
    ],
)
def test_what_is_no_state_is_not_believed(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=f"^{why}$"):
        decode(data)


def test_what_just_makes_sense_is_believed() -> None:
    assert decode(encode(FIRST._replace(at=0.0))).at == 0.0
    data = encode(FIRST)
    assert decode(data + b" " * (rollout.MAX_SIZE - len(data))) == FIRST


def test_what_else_is_said_is_passed_over() -> None:
    found = {**json.loads(encode(FIRST)), "more": 1}
    assert decode(json.dumps(found).encode()) == State(*FIRST)
