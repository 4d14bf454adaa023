"""What becomes of messages that are held for want of room in the spool when the sidecar stops."""

from __future__ import annotations

from support.amqp import publish
from support.kept import KeptStage

LARGE = b"x" * (2 << 20)
#: Seconds that the disk takes for what may wait for it at once: more than one that does not work is given.
SLOW = 10
COUNT = 6


def left_behind() -> KeptStage:
    """A client has published while there was no broker, and has gone; one message is on its way to the disk, and for
    the others there is no room."""
    stage = KeptStage(spool={"max_bytes": len(LARGE) + 1000})
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(*(publish(1, "q", b"%d" % number + LARGE) for number in range(COUNT)))
    client.leaves()
    assert stage.counts()["held"] == COUNT - 1
    return stage


def stop(stage: KeptStage) -> None:
    """The port stops, as far as it can while time stands still."""
    with stage.loop.running():
        stage.loop.create_task(stage.port.close())
    stage.loop.settle()


def works(stage: KeptStage) -> None:
    """The disk does what it was asked."""
    with stage.loop.running():
        stage.disk.work()


def stored(stage: KeptStage) -> list[int]:
    """What is on the disk, of what the client has left behind."""
    return [int(body[:1]) for body in stage.disk.bodies()]


def test_a_slow_disk_has_the_time_that_it_takes() -> None:
    stage = left_behind()
    stop(stage)
    rounds = 0
    while len(stored(stage)) < COUNT and rounds < COUNT:
        stage.advance(SLOW)
        works(stage)
        rounds += 1
    assert stored(stage) == list(range(COUNT))
    assert rounds > 2, "there was more than may wait for it at once"
    assert not stage.counts()["held"]


def test_what_comes_back_from_the_disk_is_tried_again() -> None:
    stage = left_behind()
    stop(stage)
    stage.advance(SLOW)
    stage.disk.broken = "no space"
    works(stage)
    stage.advance(3)
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(3)
    assert stored(stage) == list(range(COUNT))
    stage.complains("no space")


def test_a_disk_that_does_not_work_is_given_up() -> None:
    stage = left_behind()
    stop(stage)
    stage.disk.broken = "no space"
    stage.disk.slow = False
    works(stage)
    stage.advance(4)
    assert not any("lost" in record for record in stage._errors.records)
    stage.advance(4)
    assert stage.counts()["held"] == COUNT
    assert any("messages are lost that were held" in record for record in stage._errors.records)
    stage.complains("the spool cannot")
