"""Runs of frames found in C beside the reading in Python, which decides what is right: equal frames, equal bytes."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp.wire import runs
from support.amqp import HEARTBEAT, ack, deliver, frame, header, method, publish
from support.scanner.build import AMQP, HERE, build, extension
from support.scanner.corpus import stored
from support.scanner.runs_corpus import HOW, ODD, ORDINARY, corpus, streams
from support.scanner.runs_oracle import LIMIT, compare, compare_input


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return extension(folder=AMQP, name="runs")


@pytest.mark.parametrize(("data", "count"), ORDINARY)
def test_ordinary_messages_become_runs(module: ModuleType, data: bytes, count: int) -> None:
    assert compare(module, data) == count
    assert [unit[0] >> 8 for unit in module.cut(data, 0, len(data), LIMIT, True)] == [count]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ack(1, 4), (1, 4, 4)),
        (ack(1, 4) + ack(1, 5), (1, 4, 5)),
        (ack(3, 4, True), (3, 0, 4)),
        (ack(1, 4, True) + ack(1, 5), (1, 0, 5)),
        (ack(1, 4) + ack(1, 9, True) + ack(1, 10), (1, 0, 10)),
        (ack(1, 2**64 - 1), (1, 2**64 - 1, 2**64 - 1)),
        (ack(1, 4, True) + ack(1, 6), None),
        (ack(1, 4) + ack(1, 4, True), None),
        (ack(1, 4) + ack(2, 5), None),
        (ack(1, 0, True), None),
        (ack(1, 0) + ack(1, 1), None),
        (ack(1, 4) + HEARTBEAT, None),
        (ack(1, 4)[:-1], None),
        (b"", None),
    ],
)
def test_acks_that_are_all_there_is_come_to_a_range(
    module: ModuleType, data: bytes, said: tuple[int, int, int] | None
) -> None:
    assert module.whole_numbers(data, LIMIT, b"c") == (said and (*said, None))
    compare(module, data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (deliver(1, "c", 4, b"x"), (1, 4, 4, b"c")),
        (deliver(3, "other", 4, b"") + deliver(3, "other", 5, b"x" * 40), (3, 4, 5, b"other")),
        (deliver(1, "", 2**64 - 1, b"x"), (1, 2**64 - 1, 2**64 - 1, b"")),
        (deliver(1, "c", 2**64 - 1, b"x") + deliver(1, "c", 0, b"x"), None),
        (deliver(1, "c", 0, b"x"), None),
        (deliver(1, "c", 4, b"x") + deliver(1, "c", 6, b"x"), None),
        (deliver(1, "c", 4, b"x") + deliver(1, "d", 5, b"x"), None),
        (deliver(1, "c", 4, b"x") + deliver(2, "c", 5, b"x"), None),
        (deliver(1, "c", 4, b"") + frame(3, 1, b""), None),
        (deliver(1, "c", 4, b"x") + ack(1, 1), None),
        (deliver(1, "c", 4, b"x") + HEARTBEAT, None),
        (deliver(1, "c", 4, b"x")[:-1], None),
        (publish(1, "k", b"x"), None),
        (b"", None),
    ],
)
def test_deliveries_that_are_all_there_is_come_to_a_range(
    module: ModuleType, data: bytes, said: tuple[int, int, int, bytes] | None
) -> None:
    assert module.whole_numbers(data, LIMIT, b"c") == said
    compare(module, data)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_of_any_acks_both_say_the_same(module: ModuleType, said: list[tuple[int, bool]]) -> None:
    compare(module, b"".join([ack(1, tag, multiple) for tag, multiple in said]))


@pytest.mark.parametrize("data", ODD)
def test_odd_ones_do_not(module: ModuleType, data: bytes) -> None:
    compare(module, data)
    assert all(unit[0] >> 8 < 2 for unit in module.cut(data, 0, len(data), LIMIT, True))


def test_of_all_of_them_both_say_the_same(module: ModuleType) -> None:
    for data in streams():
        compare(module, data)


def test_of_what_the_fuzzer_has_found_both_say_the_same(module: ModuleType) -> None:
    for data in corpus():
        compare_input(module, data)


def test_of_what_is_cut_both_say_the_same(module: ModuleType) -> None:
    for data, _ in ORDINARY:
        for at in range(len(data)):
            compare(module, data[:at])
            compare(module, data[at:])


def test_whatever_byte_stands_anywhere_both_say_the_same(module: ModuleType) -> None:
    for data, _ in ORDINARY[:1] + ORDINARY[2:5]:
        for at in range(min(len(data), 250)):
            for byte in (0, 1, 2, 3, 7, 8, 40, 60, 0x7F, 0x80, 0xCE, 0xFF, data[at] ^ 1):
                compare(module, data[:at] + bytes([byte]) + data[at + 1 :])


_PIECES = st.sampled_from([*streams(), frame(3, 1, b"x"), header(1, 1), method(1, 60, 40, b"\0\0\0\0\0")])


@given(st.lists(_PIECES, max_size=4), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), max_size=3))
def test_of_any_mix_both_say_the_same(
    module: ModuleType, pieces: list[bytes], changes: list[tuple[int, bytes]]
) -> None:
    data = b"".join(pieces)
    compare(module, data)
    for at, new in changes:
        data = data[:at] + new + data[at + len(new) :]
    compare(module, data)


@given(st.binary(max_size=100))
def test_of_any_bytes_both_say_the_same(module: ModuleType, data: bytes) -> None:
    compare(module, data)


@given(st.integers(2900, 4200))
def test_traces_are_not_put_into_what_would_be_too_long(module: ModuleType, size: int) -> None:
    table = b"\x01a" + b"S" + size.to_bytes(4, "big") + b"x" * size
    properties = b"\x20\0" + len(table).to_bytes(4, "big") + table
    compare(module, publish(1, "k", b"y") + publish(1, "k", b"y", properties=properties))


# -- memory and time ------------------------------------------------------------------------------------------------


def test_no_byte_beyond_the_data_is_touched() -> None:
    """At both edges of mapped memory, whole and cut: what reads or writes on, crashes."""
    program = build("runs-guard", HERE / "runs_guard.c", AMQP / "runs.c", flags=("-O2",))
    done = subprocess.run([program], input=stored(corpus(), len(HOW)), capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert int(done.stdout) > sum(map(len, streams()))


@pytest.mark.parametrize(
    "shape",
    [
        publish(1, "k", b"x"),
        publish(1, "k", b"x") + publish(1, "l", b"x"),
        method(1, 60, 40, b"\0\0\0\0\0"),
        method(1, 60, 40, b"\0\0\0\0\0") + header(1, 1 << 40) + frame(3, 1, b"") * 50,
        b"\x0b" * 300,
        deliver(1, "c", 1, b"x"),
        ack(1, 1),
    ],
)
def test_work_is_in_proportion_to_size(shape: bytes) -> None:
    """Counted in basic blocks: no byte costs more than the bytes before it."""
    code = build("runs.o", AMQP / "runs.c", flags=("-O1", "-c", "-fsanitize-coverage=trace-pc"))
    program = build("runs-blocks", HERE / "runs_blocks.c", code, flags=("-O1",))
    inputs = []
    for n in range(4, 12):
        data = shape * 2**n
        if shape[:1] == b"\x0b":
            data = publish(1, "k", b"", properties=b"\x20\0" + len(data).to_bytes(4, "big") + data)
        inputs.append(data)
    sizes = b"".join(len(data).to_bytes(4, "little") + data for data in inputs)
    done = subprocess.run([program], input=sizes, capture_output=True, check=True)
    counts = [int(line) for line in done.stdout.split()]
    assert len(counts) == len(inputs)
    for few, many in pairwise(counts):
        assert many <= 2 * few + 200
    assert counts[-1] < 24 * len(inputs[-1])


def test_calls_leave_nothing_behind(module: ModuleType) -> None:
    corpus = streams()

    def call(times: int) -> None:
        for _ in range(times):
            for data in corpus:
                module.whole_publishes(data, LIMIT, bytes(999), 0, b"g", b"")
                module.whole_numbers(data, LIMIT, b"c")
                for unit in module.cut(data, 0, len(data), LIMIT, True):
                    if unit[0] & 0xFF == runs.PUBLISHES:
                        module.add_traces(data, unit[2], unit[3], LIMIT, bytes(999), 0, b"g")

    call(2)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call(10)
        assert tracemalloc.get_traced_memory()[0] - before < 2048
    finally:
        tracemalloc.stop()


# -- the module -----------------------------------------------------------------------------------------------------


def test_calls_with_anything_else_are_errors(module: ModuleType) -> None:
    calls: list[Callable[[], object]] = [
        lambda: module.cut(b""),
        lambda: module.cut("", 0, 0, 0, False),
        lambda: module.cut(b"", None, 0, 0, False),
        lambda: module.add_traces(b"", 0, 0, 0, b"", 0),
        lambda: module.add_traces(b"", 0, 0, 0, "", 0, b""),
        lambda: module.add_traces(b"", 0, 0, 0, b"", 0, None),
        lambda: module.whole_publishes(b"", 0, b"", 0, b""),
        lambda: module.whole_publishes("", 0, b"", 0, b"", b""),
        lambda: module.whole_publishes(b"", 0, b"", None, b"", b""),
        lambda: module.whole_publishes(b"", 0, b"", 0, "", b""),
        lambda: module.whole_publishes(b"", 0, b"", 0, b"", None),
        lambda: module.whole_numbers(b"", 0),
        lambda: module.whole_numbers("", 0, b""),
        lambda: module.whole_numbers(b"", None, b""),
        lambda: module.whole_numbers(b"", 0, ""),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    said = publish(1, "k", b"x")
    for start, end, at in ((1, 0, 0), (0, len(said) + 1, 0), (0, len(said), 1), (0, len(said), 99)):
        with pytest.raises(ValueError, match="there are"):
            module.add_traces(said, start, end, LIMIT, bytes(24), at, b"")
    assert module.whole_publishes(said, LIMIT, bytes(23), 0, b"", b"") is None
    assert module.whole_publishes(said, LIMIT, bytes(24), 25, b"", b"") is None
    assert module.cut(said, len(said) + 5, len(said) + 9, LIMIT, True) == []
    with pytest.raises(OverflowError):
        module.cut(said, -1, 0, LIMIT, True)


def test_which_one_is_used_can_be_said(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.setenv("SIDECAR_SCANNER", "python")
    chosen = runpy.run_path(runs.__file__)
    names = ("cut", "add_traces", "whole_publishes", "whole_numbers")
    assert [chosen[name] for name in names] == [None] * 4
    monkeypatch.setenv("SIDECAR_SCANNER", "rust")
    with pytest.raises(ValueError, match="'rust'; it may be 'c' or 'python'"):
        runpy.run_path(runs.__file__)
    monkeypatch.setenv("SIDECAR_SCANNER", "c")
    monkeypatch.setitem(sys.modules, "sidecar.amqp.wire._runs", module)
    assert runpy.run_path(runs.__file__)["cut"] is module.cut
    monkeypatch.setitem(sys.modules, "sidecar.amqp.wire._runs", None)  # an import of it fails
    with pytest.raises(ImportError):
        runpy.run_path(runs.__file__)
    monkeypatch.delenv("SIDECAR_SCANNER")
    assert runpy.run_path(runs.__file__)["cut"] is None
