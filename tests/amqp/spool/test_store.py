from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.amqp.spool import store, writer
from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import NewDeadLetter, Transaction
from sidecar.storage.errors import SpoolError
from support.spools import AI, Driver, message, number_of, run


def test_what_was_put_is_fetched_in_order_and_gone_once_removed(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        messages = [message(number) for number in range(100)]
        await driver.put(*messages[:70])
        await driver.put(*messages[70:])
        ids = [it.id for it in messages]
        assert ids == sorted(set(ids))
        assert ids[0] > 0
        assert spool.streams[AI].count == 100
        found = await driver.fetch(limit=60)
        assert [number_of(it) for it in found] == list(range(60))
        assert [it.body for it in found] == [it.body for it in messages[:60]]
        found += await driver.fetch(after=found[-1].position)
        assert [number_of(it) for it in found] == list(range(100))
        spool.remove(found[:99])
        assert spool.messages == spool.streams[AI].count == 1
        assert spool.bytes == found[99].size
        assert await driver.numbers() == [99]
        spool.remove(found[99:])
        assert spool.streams == {}
        assert spool.bytes == 0
        assert await driver.numbers() == []

    run(tmp_path, test)


def test_it_is_all_there_after_a_restart(tmp_path: Path) -> None:
    async def before(driver: Driver) -> None:
        await driver.put(message(1), message(2, "other"), message(3, priority=5))
        driver.spool.tried([(await driver.fetch())[0]])
        driver.spool.dead((await driver.fetch(("/", "other")))[0], "no such exchange", 404)

    async def after(driver: Driver) -> None:
        assert {key: it.count for key, it in driver.spool.streams.items()} == {AI: 2}
        found = await driver.fetch()
        assert [(number_of(it), it.attempts) for it in found] == [(3, 1), (1, 0)]
        (letter,) = await driver.spool.dead_letters.list(10)
        assert letter.message is not None
        assert (number_of(letter.message), letter.reason, letter.code) == (2, "no such exchange", 404)
        await driver.put(message(4))
        assert await driver.numbers() == [3, 1, 4]

    run(tmp_path, before)
    run(tmp_path, after)


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        with pytest.raises(SpoolError, match="in use by another process"):
            Driver(tmp_path)

    run(tmp_path, test)


def test_a_higher_priority_comes_first_and_each_keeps_its_order(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        priorities = [0, 5, 0, 255, 5, 9]
        await driver.put(*[message(number, priority=it) for number, it in enumerate(priorities)])
        assert await driver.numbers() == [3, 5, 1, 4, 0, 2]
        first = await driver.fetch(limit=2)
        await driver.put(message(6, priority=9), message(7, priority=255))
        # What comes later and has passed the reader's place is found by the next reading from the beginning.
        assert [number_of(it) for it in await driver.fetch(after=first[-1].position)] == [6, 1, 4, 0, 2]
        assert await driver.numbers() == [3, 7, 5, 6, 1, 4, 0, 2]

    run(tmp_path, test)


def test_a_fetch_is_bounded_by_bytes_too_but_gives_one_at_least(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        await driver.put(*[message(number, size=10_000) for number in range(5)])
        assert len(await driver.fetch(size=1)) == 1
        size = message(0, size=10_000).size
        assert len(await driver.fetch(size=3 * size)) == 3
        assert len(await driver.fetch(size=3 * size - 1)) == 2
        assert await driver.fetch(("/", "unknown")) == []

    run(tmp_path, test)


def test_a_full_spool_takes_nothing_and_says_when_there_is_room(tmp_path: Path) -> None:
    size = message(0, size=1000).size

    async def test(driver: Driver) -> None:
        spool = driver.spool
        rooms: list[int] = []
        spool.on_room = lambda: rooms.append(spool.messages)
        await driver.put(*[message(number, size=1000) for number in range(9)])
        called: list[object] = []
        assert not spool.put([message(9, size=1000), message(10, size=1000)], lambda *it: called.append(it))
        assert (spool.full, spool.messages) == (True, 9)
        await driver.put(message(11, size=1000))
        found = await driver.fetch()
        spool.remove(found[:1])
        assert (spool.full, rooms) == (True, [])  # room for one, but not enough to begin anew
        spool.remove(found[1:2])
        assert (spool.full, rooms) == (False, [8])
        assert called == []
        assert await driver.numbers() == [2, 3, 4, 5, 6, 7, 8, 11]

    run(tmp_path, test, max_bytes=10 * size)


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        rooms: list[bool] = []
        spool.on_room = lambda: rooms.append(spool.full)
        done: list[int] = []
        taken = 0
        while spool.put([message(taken, size=1 << 20)], lambda messages, _: done.append(number_of(messages[0]))):
            taken += 1
            assert taken < 20  # nothing is settled before we give the loop its turn
        assert spool.full
        assert taken == 5
        await driver.until(lambda: len(done) == taken)
        assert done == list(range(5))
        assert rooms == [False]
        # A message larger than the bound is alone in the queue.
        await driver.put(message(9, size=10 << 20))
        assert len((await driver.fetch())[-1].body) == 10 << 20

    run(tmp_path, test)


def test_small_messages_that_wait_for_the_disk_are_bounded_by_what_they_take_in_memory(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        done: list[int] = []
        taken = 0
        while spool.put([message(taken, size=10)], lambda messages, _: done.append(number_of(messages[0]))):
            taken += 1
            assert taken < store.QUEUE // store.COST  # nothing is settled before we give the loop its turn
        assert taken > 2000
        await driver.until(lambda: len(done) == taken)
        await driver.until(lambda: not spool.full)
        assert spool.put([message(taken, size=10)], lambda *_: None)

    run(tmp_path, test)


def test_messages_of_all_sizes_are_stored_in_their_order(tmp_path: Path) -> None:
    sizes = [10, 200_000, *[3000] * 70, 65_000, 66_000, 1 << 20, *[100] * 37, 70_000]

    async def test(driver: Driver) -> None:
        messages = [message(number, size=size) for number, size in enumerate(sizes)]
        await driver.put(*messages)
        found = await driver.fetch()
        assert [it.body for it in found] == [it.body for it in messages]
        assert [it.id for it in found] == [it.id for it in messages]

    run(tmp_path, test)


def test_the_callers_mistakes_are_logged_and_hurt_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(driver: Driver) -> None:
        def done(_: list[SpooledMessage], __: SpoolError | None) -> None:
            raise RuntimeError("mistake")

        assert driver.spool.put([message(1)], done)
        await driver.put(message(2))
        assert await driver.numbers() == [1, 2]

    run(tmp_path, test)
    assert "mistake" in caplog.text


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    name = b"\xff\x00'\"/".decode("utf-8", "surrogateescape")

    async def before(driver: Driver) -> None:
        it = SpooledMessage(name, name, name, name, b"h", b"b", user=name)
        await driver.put(it)
        driver.spool.dead(SpooledMessage(name, name, name, name, b"h", b"b"), name, 0)

    async def after(driver: Driver) -> None:
        assert list(driver.spool.streams) == [(name, name)]
        (it,) = await driver.fetch((name, name))
        assert (it.exchange, it.routing_key, it.user) == (name, name, name)
        assert len(await driver.spool.dead_letters.list(1, exchange=name)) == 1

    run(tmp_path, before)
    run(tmp_path, after)


def test_it_ends_with_all_that_was_asked_for(tmp_path: Path) -> None:
    async def before(driver: Driver) -> None:
        await driver.put(*[message(number) for number in range(10)])
        found = await driver.fetch()
        driver.spool.remove(found[:5])
        driver.spool.dead(found[5], "expired", 0)
        assert driver.spool.put([message(10)], lambda *_: None)
        await driver.spool.close()
        assert not driver.spool.put([message(11)], lambda *_: None)
        with pytest.raises(SpoolError, match="closed"):
            await driver.spool.dead_letters.list(1)

    async def after(driver: Driver) -> None:
        assert await driver.numbers() == [6, 7, 8, 9, 10]
        assert driver.spool.dead_letters.reasons == {"expired": 1}

    run(tmp_path, before)
    run(tmp_path, after)


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    seen: list[int] = []

    async def test(driver: Driver) -> None:
        it = message(1)
        await driver.put(it)
        seen.append(it.id)
        driver.spool.remove([it])

    for _ in range(5):
        run(tmp_path, test)
    assert seen == sorted(set(seen))


def test_the_file_shrinks_when_it_has_been_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "IDLE", 0.001)
    base = tmp_path / "rabbitmq.db"

    async def test(driver: Driver) -> None:
        messages = [message(number, size=4000) for number in range(5000)]
        for start in range(0, 5000, 500):
            await driver.put(*messages[start : start + 500])
        await driver.until(lambda: base.stat().st_size > 20_000_000)
        driver.spool.remove(messages)
        await driver.until(lambda: base.stat().st_size < 2_000_000)
        await driver.put(message(1))
        assert await driver.numbers() == [1]

    run(tmp_path, test)


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_by_reason_and_exchange_and_dropped(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        dead = spool.dead_letters
        messages = [message(number) for number in range(6)]
        messages[5].exchange = "other"
        await driver.put(*messages[:5])
        for it in messages:  # the last one was never in the spool
            spool.dead(it, "expired" if number_of(it) % 2 else "no exchange", 0 if number_of(it) % 2 else 404)
            driver.now += 1
        assert spool.streams == {}
        letters = await dead.list(100)
        assert [number_of(it.message) for it in letters if it.message] == [0, 1, 2, 3, 4, 5]
        assert [it.died for it in letters] == [1000, 1001, 1002, 1003, 1004, 1005]
        assert [it.code for it in letters] == [404, 0] * 3
        assert dead.count == 6
        assert dead.bytes == sum(it.size for it in letters) == sum(it.size for it in messages)
        assert dead.reasons == {"expired": 3, "no exchange": 3}
        assert [it.id for it in await dead.list(2, letters[2].id)] == [it.id for it in letters[3:5]]
        assert [it.id for it in await dead.list(9, reason="expired")] == [it.id for it in letters[1::2]]
        assert [it.id for it in await dead.list(9, exchange="other")] == [letters[5].id]
        assert await dead.list(9, reason="no exchange", exchange="other") == []
        one = await dead.get(letters[3].id)
        assert one is not None
        assert (one.id, one.reason) == (letters[3].id, "expired")
        assert await dead.get(999_999) is None
        assert await dead.drop([letters[3].id, 999_999]) == 1
        assert (dead.count, dead.reasons["expired"]) == (5, 2)
        assert await dead.expire(1002.0) == 2
        assert [it.died for it in await dead.list(9)] == [1002, 1004, 1005]

    run(tmp_path, test)


def test_a_dead_letter_has_what_the_broker_said_of_it(tmp_path: Path) -> None:
    said = "NOT_FOUND - no exchange 'x' in vhost '/'"

    async def before(driver: Driver) -> None:
        await driver.put(message(1), message(2))
        one, two = await driver.fetch()
        driver.spool.dead(one, "no exchange", 404, said)
        driver.spool.dead(two, "nacked", 0)
        driver.spool.dead(message(3), "refused", 406, "\udcff" + "x" * 1000)
        assert [it.text for it in await driver.spool.dead_letters.list(9)] == [said, "", "?" + "x" * 499]

    async def after(driver: Driver) -> None:
        first = (await driver.spool.dead_letters.list(1))[0]
        found = await driver.spool.dead_letters.get(first.id)
        assert found is not None
        assert (found.text, found.code, found.reason) == (said, 404, "no exchange")

    run(tmp_path, before)
    run(tmp_path, after)


def test_a_dead_letter_is_sent_again_behind_the_others_and_has_its_time_anew(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        revived: list[int] = []
        spool.on_revived = lambda: revived.append(spool.messages)
        old = message(1, expires=960.0)
        await driver.put(old, message(2))
        spool.tried([old])
        spool.dead(old, "expired", 0)
        (letter,) = await spool.dead_letters.list(1)
        assert letter.message is not None
        assert letter.message.attempts == 1
        driver.now = 5000.0
        assert await spool.dead_letters.replay([letter.id, 999_999]) == 1
        assert revived == [2]
        assert spool.dead_letters.count == spool.dead_letters.bytes == 0
        found = await driver.fetch()
        assert [number_of(it) for it in found] == [2, 1]
        assert (found[1].at, found[1].expires, found[1].attempts) == (5000.0, 5060.0, 0)
        assert spool.messages == spool.streams[AI].count == 2
        assert spool.bytes == sum(it.size for it in found)

    run(tmp_path, test)


def test_the_oldest_dead_letters_go_when_there_are_too_many_bytes_of_them(tmp_path: Path) -> None:
    size = message(0, size=1000).size

    async def test(driver: Driver) -> None:
        for number in range(8):
            driver.spool.dead(message(number, size=1000), "no exchange", 404)
            await driver.fetch()
        dead = driver.spool.dead_letters
        letters = await dead.list(100)
        assert [number_of(it.message) for it in letters if it.message] == [3, 4, 5, 6, 7]
        assert (dead.count, dead.bytes, dead.dropped) == (5, 5 * size, 3)
        driver.spool.resize(3 * size)
        driver.spool.dead(message(8, size=1000), "no exchange", 404)
        await driver.fetch()
        assert (dead.count, dead.dropped) == (3, 6)

    run(tmp_path, test, max_bytes=5 * size + 10)


def test_for_how_long_nothing_has_left(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        driver.now += 100
        assert spool.still == 0
        messages = [message(number) for number in range(3)]
        await driver.put(*messages)
        driver.now += 5
        await driver.put(message(3))
        assert spool.still == 5
        spool.remove(messages[:1])
        assert spool.still == 0
        driver.now += 7
        spool.dead(messages[1], "expired", 0)
        driver.now += 2
        assert spool.still == 2

    run(tmp_path, test)


def test_what_is_done_with_dead_letters_makes_the_log_longer(tmp_path: Path) -> None:
    database = Database(tmp_path, "rabbitmq")
    database.open()
    changes = Transaction()
    changes.dead = [NewDeadLetter(message(number), "expired", 0, 900.0) for number in range(30)]
    database.write([], changes)
    letters = [letter.id for letter in database.list_dead(100)]
    for action in (database.replay_dead, database.drop_dead):
        before = database.behind
        action(letters[:10])
        letters = letters[10:]
        assert database.behind - before >= 10 * 8192
    before = database.behind
    assert database.expire_dead(1000.0) == 10
    assert database.behind - before >= 10 * 8192
    database.close()


def test_a_list_of_large_dead_letters_is_short_but_not_empty(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        for number in range(4):
            driver.spool.dead(message(number, size=3 << 20), "expired", 0)
        dead = driver.spool.dead_letters
        seen: list[int] = []
        after = 0
        while letters := await dead.list(100, after):
            assert len(letters) <= 2
            seen += [number_of(it.message) for it in letters if it.message]
            after = letters[-1].id
        assert seen == [0, 1, 2, 3]

    run(tmp_path, test)
