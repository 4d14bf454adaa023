"""The head scanner in C beside the parser in Python, which decides what is right: equal verdicts, equal bytes."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.limits import Limits
from sidecar.http.h1 import head as heads
from sidecar.http.h1 import scanner
from support.http import Stage
from support.scanner.build import HERE, ROOT, SOURCES, build, extension, load
from support.scanner.corpus import ANSWER_BYTE, ANSWERS, ODD, REQUEST_BYTE, REQUESTS, corpus, stored
from support.scanner.oracle import compare, compare_answer, compare_request, put, use

LIMITS = Limits()
CORPUS = corpus()


@pytest.fixture(scope="module", autouse=True)
def _scanner() -> Iterator[None]:
    before = use(extension())
    yield
    put(*before)


# -- equal verdicts, equal bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", REQUESTS)
def test_ordinary_requests_are_taken(raw: bytes) -> None:
    assert compare_request(raw, LIMITS)


@pytest.mark.parametrize("raw", ANSWERS)
def test_ordinary_answers_are_taken(raw: bytes) -> None:
    assert compare_answer(raw, LIMITS)


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\r\n", b"\r\n\r\n"]), max_size=12).map(b"".join), st.integers(0, 20)
)
def test_both_find_the_same_end(data: bytes, seen: int) -> None:
    assert extension().end_of_head(data, seen) == scanner.find_end(data, seen)


def test_of_the_corpus_both_find_the_same_ends() -> None:
    for data in CORPUS:
        for seen in (0, 1, len(data) // 2, len(data), len(data) + 9):
            assert extension().end_of_head(data, seen) == scanner.find_end(data, seen)


@pytest.mark.parametrize("data", ODD)
def test_odd_heads_are_left_to_the_parser(data: bytes) -> None:
    assert not compare(data)


def test_of_the_corpus_both_say_the_same() -> None:
    taken = sum(compare(data) for data in CORPUS)
    assert len(REQUESTS) + len(ANSWERS) <= taken < len(CORPUS)


def test_at_the_limits_both_say_the_same() -> None:
    raw = b"GET /abcd HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n"
    for more in (-1, 0, 1):
        fits = more >= 0
        assert compare_request(raw, Limits(head=len(raw) + more)) is fits
        assert compare_request(raw, Limits(headers=3 + more)) is fits
        assert compare_request(raw, Limits(target=5 + more)) is fits
    raw = b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n"
    for more in (-1, 0, 1):
        assert compare_answer(raw, Limits(head=len(raw) + more)) is (more >= 0)
        assert compare_answer(raw, Limits(headers=2 + more)) is (more >= 0)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_at_the_usual_limits_both_say_the_same(over: int) -> None:
    begin, end = b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"
    line = b"X: %b\r\n" % (b"y" * (LIMITS.head + over - len(begin + end) - 5))
    assert compare_request(begin + line + end, LIMITS) is (over <= 0)
    assert compare_request(begin + b"X: y\r\n" * (LIMITS.headers - 1 + over) + end, LIMITS) is (over <= 0)
    target = b"/" + b"y" * (LIMITS.target - 1 + over)
    assert compare_request(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target, LIMITS) is (over <= 0)
    first = b"HTTP/1.1 200 OK\r\n"
    line = b"X: %b\r\n" % (b"y" * (LIMITS.head + over - len(first + end) - 5))
    assert compare_answer(first + line + end, LIMITS) is (over <= 0)
    assert compare_answer(first + b"X: y\r\n" * (LIMITS.headers + over) + end, LIMITS) is (over <= 0)


@pytest.mark.parametrize(
    "name",
    [b"Host", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect", b"X-Sidecar-Deadline", b"X-Request-Id",
     b"X-B3-Sampled", b"Retry-After", b"Keep-Alive", b"Upgrade", b"TE", b"A"],
)  # fmt: skip
def test_whatever_a_field_says_both_say_the_same(name: bytes) -> None:
    values = [
        b"", b" ", b"\t", b" a", b"a\t", b" 5", b"5 ", b"05", b"0", b" 00", b"-1", b"+1", b"1,1", b"1 1", b"1" * 18,
        b"1" * 19, b" chunked", b"chunked", b" Chunked", b" chunked ", b"\tchunked", b" chunked, a", b" close",
        b" Keep-Alive\t", b" keep-alive, close", b" upgrade", b" 100-continue", b" 100-Continue ", b" 100",
        b" a:80", b" a:", b" a:123456", b" :80", b" [::1]", b" []", b" [::1]:", b" [::1", b" [::1]a",
        b" [fe80::1%25a]", b" a/b", b" a@b", b" a b", b" \xff", b" %41", b" http", b" 12345678", b" 123456789", b" 1.5",
    ]  # fmt: skip
    for value in values:
        line = name + b":" + value + b"\r\n"
        host = b"" if name == b"Host" else b"Host: a\r\n"
        compare_request(b"GET / HTTP/1.1\r\n" + host + line + b"\r\n", LIMITS)
        compare_request(b"GET / HTTP/1.1\r\n" + host + line + line + b"\r\n", LIMITS)
        for status in (b"101", b"200", b"204", b"304"):
            compare_answer(b"HTTP/1.1 " + status + b" X\r\n" + line + b"\r\n", LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00GET /a HTTP/1.1\r\nHost: a:1\r\nX-b3-flags: 1\r\nConnection: close\r\n\r\n",
        b"\x01HTTP/1.1 200 K\r\nConnection: close\r\n\r\n",
    ],
)
def test_whatever_byte_stands_anywhere_both_say_the_same(data: bytes) -> None:
    for at in range(1, len(data)):
        for byte in range(256):
            compare(data[:at] + bytes([byte]) + data[at + 1 :])


def test_of_what_is_cut_or_has_more_behind_it_both_say_the_same() -> None:
    for data in (*(REQUEST_BYTE + raw for raw in REQUESTS), *(ANSWER_BYTE + raw for raw in ANSWERS)):
        for at in range(len(data)):
            assert not compare(data[:at])
        for more in (b"\r", b"\n", b"\r\n", b"a", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"):
            assert compare(data + more)
            assert not compare(data[:-2] + b" " + more)


_WORDS = [
    b"\r\n", b"\r", b"\n", b"\x00", b" ", b":", b",", b"\t", b"0", b"close", b"chunked", b"1.0",
    b"x-sidecar-load:\r\n", b"x_sidecar-a: 1\r\n", b"Host: b\r\n", b"Content-Length: 1\r\n", b"te: trailers\r\n",
    b"x-b3-a: 1\r\n",
]  # fmt: skip
_changes = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 4), st.sampled_from(_WORDS) | st.binary(max_size=2)), max_size=4
)


@given(st.sampled_from(CORPUS), _changes, st.sampled_from(CORPUS))
@example(b"\x00GET / HTTP/1.1\r\n", [], b"\x00Host: a\r\n\r\n")
def test_of_changed_heads_both_say_the_same(data: bytes, changes: list[tuple[int, int, bytes]], other: bytes) -> None:
    compare(data + other[1:])
    for at, drop, insert in changes:
        at = 1 + at % max(len(data), 1)
        data = data[:at] + insert + data[at + drop :]
    compare(data)
    lines, others = data.split(b"\r\n"), other.split(b"\r\n")
    compare(b"\r\n".join((*lines[:-2], *others[1:])))


@given(st.binary(max_size=100))
def test_of_any_bytes_both_say_the_same(data: bytes) -> None:
    compare(data)


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 1),
        (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02\t ", 2),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", 3),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0A", -1),
        (b" 00-0Af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-00", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c0b7ad6b7169203331-00", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331000", -1),
        (b" 00-00000000000000000000000000000000-b7ad6b7169203331-00", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00", -1),
        (b" 01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", -1),
        (b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\xff", -1),
        (b"", -1),
    ],
)
def test_of_a_traceparent_the_flags_are_seen_in_passing(value: bytes, flags: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent:%b\r\n\r\n" % value
    assert compare_request(raw, LIMITS)
    assert heads.parse_request(raw, LIMITS).trace_flags == flags


@pytest.mark.parametrize(
    ("value", "id"),
    [
        (b" 7f3c", "7f3c"), (b"a\t", "a"), (b" !~", "!~"), (b" " + b"x" * 128, "x" * 128), (b" " + b"x" * 129, ""),
        (b" a b", ""), (b" a\tb", ""), (b" \xe9", ""), (b"", ""), (b" \t", ""),
    ],
)  # fmt: skip
def test_of_an_id_it_is_seen_in_passing_whether_it_can_be_kept(value: bytes, id: str) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id:%b\r\n\r\n" % value
    assert compare_request(raw, LIMITS)
    assert heads.parse_request(raw, LIMITS).request_id == id


def test_heads_that_come_in_pieces_are_taken_when_they_are_whole() -> None:
    taken: list[bool] = []

    def noted(scan: Callable[[bytes, object], object]) -> Callable[[bytes, object], object]:
        def scanned(data: bytes, bounds: object) -> object:
            found = scan(data, bounds)
            taken.append(found is not None)
            return found

        return scanned

    it = Stage()
    before = use(extension())
    put(noted(extension().request_head), noted(extension().answer_head))
    try:
        client = it.client()
        client.says(REQUESTS[0][:20])
        client.says(REQUESTS[0][20:])
        server = it.upstream()
        server.hears()
        server.says(b"HTTP/1.1 200 OK\r\nContent-Le")
        server.says(b"ngth: 2\r\n\r\nok")
        assert client.gets().body == b"ok"
    finally:
        put(*before)
    assert taken == [False, True, False, True]  # once when it begins, and once when it is whole
    it.over()


# -- memory and time ------------------------------------------------------------------------------------------------


def test_no_byte_beyond_a_head_is_read() -> None:
    """At both edges of mapped memory, whole and cut: what reads on, crashes."""
    program = build("guard", HERE / "guard.c", SOURCES / "scan.c", flags=("-O2",))
    done = subprocess.run([program], input=stored(CORPUS), capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert int(done.stdout) > 4 * sum(map(len, REQUESTS))


_SHAPES = [b" ", b"\t", b",", b"a", b"a,", b"-", b"\x80", b"\r", b"\r\n", b"A: b\r\n", b"a:\r\n", b"Connection: a\r\n",
           b"x-sidecar-", b"x-b3-", b"0", b"%", b"/"]  # fmt: skip
_FRAMES = [
    b"%b", b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: %b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n\r\n", b"HTTP/1.1 200 %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: %b\r\n\r\n", b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
]  # fmt: skip


def test_work_is_in_proportion_to_size() -> None:
    """Counted in basic blocks, up to the limit of a head: no byte costs more than the bytes before it."""
    scan = build("scan.o", SOURCES / "scan.c", flags=("-O1", "-c", "-fsanitize-coverage=trace-pc"))
    program = build("blocks", HERE / "blocks.c", scan, flags=("-O1",))
    cases = [(frame, shape) for frame in _FRAMES for shape in _SHAPES]
    sizes = [2**n for n in range(6, 17)]
    made = [frame % (shape * (size // len(shape))) for frame, shape in cases for size in sizes]
    done = subprocess.run([program], input=stored(b"\x00" + raw for raw in made), capture_output=True, check=True)
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(counts) == len(made)
    most = max(count / len(raw) for raw, both in zip(made, counts, strict=True) for count in both)
    assert max(count for both in counts for count in both) > LIMITS.head  # it was let run through the largest
    assert most < 16  # blocks for a byte, first lines with all their set-up included
    for n in range(0, len(made), len(sizes)):
        for smaller, larger in zip(counts[n : n + len(sizes)], counts[n + 1 : n + len(sizes)], strict=False):
            for few, many in zip(smaller, larger, strict=True):
                assert many <= 2 * few + 200, made[n][:80]


def test_calls_leave_nothing_behind() -> None:
    module = extension()

    def call(times: int) -> None:
        for _ in range(times):
            for data in CORPUS:
                module.request_head(data[1:], LIMITS.bounds)
                module.answer_head(data[1:], LIMITS.bounds)

    call(2)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call(10)
        assert tracemalloc.get_traced_memory()[0] - before < 2048
    finally:
        tracemalloc.stop()
    raw = REQUESTS[0]
    count = sys.getrefcount(raw)
    kept = [module.request_head(raw, LIMITS.bounds) for _ in range(10)]
    assert sys.getrefcount(raw) == count + 10  # no line was taken out: what goes on is what came
    assert all(it[0] is raw for it in kept)
    del kept
    assert sys.getrefcount(raw) == count


# -- the module -----------------------------------------------------------------------------------------------------


def test_calls_with_anything_else_are_errors() -> None:
    module = extension()
    calls: list[Callable[[], object]] = [
        lambda: module.request_head(b""),
        lambda: module.request_head(),
        lambda: module.answer_head(b"", (1, 2, 3), 4),
        lambda: module.request_head("", (1, 1, 1)),
        lambda: module.answer_head(bytearray(b""), (1, 1, 1)),
        lambda: module.request_head(b"", (1, None, 1)),
        lambda: module.end_of_head(b""),
        lambda: module.end_of_head("", 0),
        lambda: module.end_of_head(b"", None),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    for limit in (-1, 1 << 80):
        with pytest.raises(OverflowError):
            module.request_head(b"", (1, 1, limit))
        with pytest.raises(OverflowError):
            module.end_of_head(b"", limit)


def test_without_the_scanner_the_parser_does_it_all() -> None:
    before = use(None)
    try:
        assert heads.parse_request(REQUESTS[0], LIMITS).raw == REQUESTS[0]
        assert heads.parse_response(ANSWERS[0], LIMITS, "GET").length == 2
    finally:
        put(*before)


def test_which_one_is_used_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_SCANNER", "python")
    chosen = runpy.run_path(scanner.__file__)
    assert (chosen["scan_request"], chosen["scan_response"]) == (None, None)
    monkeypatch.setenv("SIDECAR_SCANNER", "rust")
    with pytest.raises(ValueError, match="'rust'; it may be 'c' or 'python'"):
        runpy.run_path(scanner.__file__)
    monkeypatch.setenv("SIDECAR_SCANNER", "c")
    monkeypatch.setitem(sys.modules, "sidecar.http.h1._scan", extension())
    monkeypatch.delattr("sidecar.http.h1._scan", raising=False)
    assert runpy.run_path(scanner.__file__)["scan_request"] is not None
    monkeypatch.setitem(sys.modules, "sidecar.http.h1._scan", None)  # an import of it fails
    with pytest.raises(ImportError):
        runpy.run_path(scanner.__file__)
    monkeypatch.delenv("SIDECAR_SCANNER")
    assert runpy.run_path(scanner.__file__)["scan_request"] is None


def test_one_that_was_built_from_an_older_source_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    older = ModuleType("sidecar.http.h1._scan")
    vars(older).update(scan_request=print, scan_response=print, end_of_head=print)
    monkeypatch.setitem(sys.modules, "sidecar.http.h1._scan", older)
    monkeypatch.delenv("SIDECAR_SCANNER", raising=False)
    chosen = runpy.run_path(scanner.__file__)
    assert (chosen["scan_request"], chosen["end_of_head"]) == (None, chosen["find_end"])
    monkeypatch.setenv("SIDECAR_SCANNER", "c")
    with pytest.raises(ImportError, match="answer_head"):
        runpy.run_path(scanner.__file__)


@pytest.mark.parametrize("cc", ["gcc", "false"])
def test_setup_builds_it_where_there_is_a_compiler(cc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", cc)
    monkeypatch.delenv("SIDECAR_COMPILE", raising=False)
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}/lib", f"--build-temp={tmp_path}/temp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.glob("lib/sidecar/http/h1/_scan.*"))
    if cc == "false":
        assert not built
        assert "failed" in done.stderr
    else:
        assert [path.name for path in built] == ["_scan.abi3.so"]
        assert load(built[0]).answer_head(b"", (0, 0, 0)) is None
