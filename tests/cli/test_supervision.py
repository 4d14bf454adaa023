"""What is decided about a sidecar and its app: a play with processes that only have numbers."""

from __future__ import annotations

import random
import signal

from sidecar.cli import supervision
from sidecar.cli.supervision import AGAIN, AGAIN_MOST, SLACK, Supervision

#: What the sidecar says, with the seconds of its drain and of the app's end.
READY, DRAINED = b"ready 7.000 5.000\n", b"drained 7.000 5.000\n"
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


class Play:
    """Writes down what would be done. The sidecar's ids are odd, the app's even."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.sidecars = 0
        self.apps = 0
        self.wake: float | None = None

    def start_sidecar(self) -> int:
        self.sidecars += 1
        self.done.append(f"sidecar {self.sidecars}")
        return 2 * self.sidecars - 1

    def start_app(self) -> int:
        self.apps += 1
        self.done.append("app")
        return 1000

    def kill(self, pid: int, number: int) -> None:
        if pid:
            self.done.append(f"{'app' if pid == 1000 else 'sidecar'} gets {signal.Signals(number).name}")

    def let_go(self) -> None:
        if self.done[-1:] != ["lifeline cut"]:
            self.done.append("lifeline cut")

    def wake_in(self, seconds: float) -> None:
        self.wake = seconds

    def say(self, text: str) -> None:
        self.done.append(text)


def begun() -> tuple[Play, Supervision]:
    play = Play()
    it = Supervision(play)
    it.heard(READY)
    assert play.done == ["sidecar 1", "app"]
    play.done.clear()
    return play, it


def test_the_app_waits_for_the_sidecar_and_the_sidecar_for_the_app() -> None:
    play, it = begun()
    it.signalled(HUP)
    it.signalled(TERM)
    assert play.done == ["app gets SIGHUP", "sidecar gets SIGTERM"]
    it.heard(DRAINED)
    it.heard(DRAINED)
    assert play.done[2:] == ["app gets SIGTERM"], "once"
    it.ended(1000, 7)
    assert play.done[3:] == ["lifeline cut"]
    assert it.result is None, "the sidecar is still there"
    it.ended(1, 0)
    assert it.result == 7


def test_an_app_that_ends_takes_the_sidecar_with_it() -> None:
    play, it = begun()
    it.ended(1000, -signal.SIGKILL)
    assert play.done == ["lifeline cut"]
    assert play.wake == 7 + SLACK
    it.heard(DRAINED)
    it.ended(1, 0)
    assert it.result == 137
    assert play.apps == 1


def test_a_sidecar_that_cannot_start_is_the_end() -> None:
    play = Play()
    it = Supervision(play)
    it.ended(1, 2)
    assert it.result == 2
    assert not play.apps


def test_asked_to_end_before_there_is_an_app() -> None:
    play = Play()
    it = Supervision(play)
    it.signalled(INT)
    assert play.done == ["sidecar 1", "lifeline cut", "sidecar gets SIGTERM"]
    it.heard(READY)
    it.ended(1, 0)
    assert it.result == 0
    assert not play.apps


def test_a_second_signal_goes_to_the_app_at_once() -> None:
    play, it = begun()
    it.signalled(TERM)
    it.signalled(INT)
    it.signalled(INT)
    assert play.done == ["sidecar gets SIGTERM", "app gets SIGINT", "app gets SIGINT"]


def test_a_lost_sidecar_is_started_again_ever_more_slowly() -> None:
    play, it = begun()
    pid = 1
    pauses = []
    for _ in range(8):
        it.ended(pid, -signal.SIGKILL)
        assert it.result is None
        assert play.wake is not None
        pauses.append(play.wake)
        it.woken()
        pid += 2
    assert play.sidecars == 9
    assert pauses[0] == AGAIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == AGAIN_MOST
    assert "by SIGKILL" in play.done[0]
    it.heard(READY)
    assert play.apps == 1, "the one that there is"
    it.ended(pid, 1)
    assert play.wake == AGAIN, "it has been well meanwhile"


def test_a_sidecar_that_is_lost_at_the_end_stays_so() -> None:
    play, it = begun()
    it.signalled(TERM)
    it.ended(1, -signal.SIGSEGV)
    assert play.done == ["sidecar gets SIGTERM", "app gets SIGTERM"]
    it.ended(1000, 0)
    assert it.result == 0

    play, it = begun()
    it.ended(1, 1)
    it.signalled(TERM)
    assert play.done[1:] == ["app gets SIGTERM"]
    assert play.sidecars == 1


def test_an_app_that_does_not_end_is_killed() -> None:
    play, it = begun()
    it.signalled(TERM)
    assert play.wake == 7 + SLACK
    it.heard(DRAINED)
    assert play.wake == 5
    play.wake = None
    it.signalled(TERM)
    assert play.wake is None, "a second signal gives it no more time"
    it.woken()
    assert play.done[-2:] == [
        "the app has not ended within 5 s of SIGTERM (drain.app); it is killed", "app gets SIGKILL",
    ]  # fmt: skip
    it.ended(1000, -signal.SIGKILL)
    it.ended(1, 0)
    assert it.result == 137


def test_a_sidecar_that_does_not_drain_holds_nothing_up() -> None:
    play, it = begun()
    it.signalled(TERM)
    it.woken()
    assert play.done[-2:] == ["the sidecar has not drained within 17 s; the app is told to end", "app gets SIGTERM"]
    assert play.wake == 5
    it.ended(1000, 0)
    assert play.wake == 7 + SLACK
    it.woken()
    assert play.done[-2:] == ["the sidecar has not left within 17 s; it is killed", "sidecar gets SIGKILL"]
    it.ended(1, -signal.SIGKILL)
    assert it.result == 0, "the app's"


def test_a_sidecar_that_never_began_to_serve_is_not_waited_for_without_end() -> None:
    play = Play()
    it = Supervision(play)
    it.signalled(TERM)
    assert play.wake == supervision.DRAIN + SLACK
    it.woken()
    it.ended(1, -signal.SIGKILL)
    assert play.done[-1] == "sidecar gets SIGKILL"
    assert it.result == 137


def test_times_are_those_that_the_sidecar_said_last() -> None:
    play, it = begun()
    it.heard(b"ready 1.000 2.000\ndrained 3.000 4.000\n")
    it.signalled(TERM)
    assert play.wake == 3 + SLACK
    it.heard(b"drained 3.000 6.000\n")
    assert play.wake == 6


def test_orphans_are_no_matter() -> None:
    play, it = begun()
    it.ended(4711, 1)
    assert play.done == []
    assert it.result is None


def test_whatever_happens_it_ends_when_both_have() -> None:
    chance = random.Random(1)
    for _ in range(500):
        play = Play()
        it = Supervision(play)
        for _ in range(chance.randint(0, 12)):
            what = chance.randrange(5)
            if what == 0:
                it.heard(chance.choice([READY, DRAINED, READY + DRAINED, b""]))
            elif what == 1:
                it.signalled(chance.choice([TERM, INT, HUP]))
            elif what == 2:
                it.ended(2 * play.sidecars - 1, chance.choice([0, 1, -9]))
            elif what == 3 and play.apps:
                it.ended(1000, chance.choice([0, 3, -9]))
            else:
                it.woken()
            if it.result is not None:
                break
        if play.apps:
            it.ended(1000, 0)
        it.ended(2 * play.sidecars - 1, 0)
        assert it.result is not None
        assert play.apps <= 1
