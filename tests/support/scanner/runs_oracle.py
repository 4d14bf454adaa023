"""Holds what is found in C against the frames that there are, and the traces put in by it against those of Python."""

from __future__ import annotations

from struct import Struct
from types import ModuleType
from typing import NamedTuple

from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import HEADERS, AmqpError
from sidecar.amqp.wire.methods import Arguments
from sidecar.amqp.wire.tables import find, table_end

#: Frames up to this size.
LIMIT = 4096
#: As large as their size can say; what is beyond 32 bits is no other limit.
ANY = 1 << 33
_HOW = Struct("<BHB")

#: (type, channel, start, end).
Frame = tuple[int, int, int, int]


class Traces(NamedTuple):
    """How traces are put into runs: their random bytes stand behind some others, and a few of them may be missing."""

    limit: int = LIMIT
    least: str = "9" * 14
    before: int = 0
    missing: int = 0


USUAL = Traces()


def frames(data: bytes, limit: int = LIMIT) -> list[Frame]:
    """The whole and well-formed frames that it begins with."""
    found = []
    at = 0
    while len(data) - at >= 8:
        size = int.from_bytes(data[at + 3 : at + 7], "big")
        end = at + size + 8
        if data[at] not in (1, 2, 3, 8) or size > limit - 8 or end > len(data) or data[end - 1] != 0xCE:
            break
        found.append((data[at], int.from_bytes(data[at + 1 : at + 3], "big"), at, end))
        at = end
    return found


def messages(data: bytes, kind: int, run: list[Frame]) -> list[list[Frame]]:
    """The frames of each message, or ack, of a run. Fails when it is none."""
    found: list[list[Frame]] = []
    for each in run:
        if each[0] == 1:
            found.append([])
        found[-1].append(each)
    wanted = {16: b"\x00\x3c\x00\x28", 17: b"\x00\x3c\x00\x3c", 18: b"\x00\x3c\x00\x50"}[kind]
    alike = set()
    tags = set()
    for number, parts in enumerate(found):
        begin, after = parts[0][2:]
        assert data[begin + 7 : begin + 11] == wanted
        assert {part[1] for part in parts} == {found[0][0][1]}
        arguments = Arguments(data, begin, after)
        if kind == 16:
            arguments.skip(2)
            alike.add((arguments.short_bytes(), arguments.short_bytes()))
        else:
            if kind == 17:
                alike.add((arguments.short_bytes(), b""))
            tag = arguments.u64()
            assert tag > 0
            tags.add(tag - number)
        bits = arguments.u8()
        if kind == 17:
            arguments.short_bytes(), arguments.short_bytes()
        assert arguments.pos == after - 1
        if kind == 18:
            assert bits == 0
            continue
        assert [part[0] for part in parts] == [1, 2, *[3] * (len(parts) - 2)]
        head = parts[1]
        assert content.body_size(data, head[2]) == sum(part[3] - part[2] - 8 for part in parts[2:])
        if kind == 16:
            for name in (content.TRACEPARENT, content.B3):
                assert content.text_header(data, head[2], head[3], name) is None
    assert len(alike) <= 1
    assert len(tags) <= 1
    return found


def compare(module: ModuleType, data: bytes, limit: int = LIMIT, traces: Traces = USUAL) -> int:
    """Fail if what is found in C is not what there is; the messages and acks in runs."""
    plain = frames(data, limit)
    assert module.cut(data, 0, len(data), limit, False) == plain
    starts = {frame[2]: number for number, frame in enumerate(plain)}
    taken = 0
    cut = []
    units = module.cut(data, 0, len(data), limit, True)
    for kind, channel, start, end in units:
        if kind < 16:
            cut.append((kind, channel, start, end))
            continue
        first, last = starts[start], starts.get(end, len(plain))
        assert plain[last - 1][3] == end
        found = messages(data, kind & 0xFF, plain[first:last])
        assert len(found) == kind >> 8
        assert found[0][0][1] == channel
        taken += len(found)
        cut += [part for parts in found for part in parts]
        if kind & 0xFF == 16:
            compare_traces(module, data, start, end, found, traces)
    assert cut == plain
    compare_whole(module, data, units, limit)
    return taken


def compare_whole(module: ModuleType, data: bytes, units: list[Frame], limit: int) -> None:
    """What is said of all of it at once is what is said of its runs."""
    least = b"8" + b"0" * 13
    had = all_traced(data, limit)
    for room in (0, len(data) // 30 + 1):
        ids = b"\0" + bytes(range(24)) * room
        whole = had
        if len(units) == 1 and units[0][0] & 0xFF == 16 and units[0][3] == len(data):
            assert had is None
            count, end = units[0][0] >> 8, 7 + int.from_bytes(data[3:7], "big")
            traced = module.add_traces(data, 0, len(data), limit, ids, 1, least) if room >= count else None
            whole = None if traced is None else (count, units[0][1], data[13 : end - 1], traced)
        found = module.whole_publishes(data, limit, ids, 1, least, b"k")
        assert found == whole
        if found is not None:
            assert module.whole_publishes(data, limit, ids, 1, least, found[2])[2] is found[2]
            assert (found[3] is data) == (had is not None)
    said = module.whole_numbers(data, limit, b"c")
    assert said == (acks(data, limit) or deliveries(data, limit))
    if said is not None and said[3] is not None:
        assert module.whole_numbers(data, limit, said[3])[3] is said[3]


def whole_messages(data: bytes, limit: int, of_method: bytes) -> list[list[Frame]]:
    """The frames of each message, if that is all there is, on one channel: that method, a header, and no more bodies
    than there have to be."""
    found: list[list[Frame]] = []
    for each in frames(data, limit):
        if each[0] == 1:
            found.append([])
        if not found:
            return []
        found[-1].append(each)
    if not found or found[-1][-1][3] != len(data):
        return []
    for parts in found:
        begin, after = parts[0][2:]
        kinds = [part[0] for part in parts]
        if kinds != [1, 2, *[3] * (len(parts) - 2)] or {part[1] for part in parts} != {found[0][0][1]}:
            return []
        head = parts[1]
        sizes = [part[3] - part[2] - 8 for part in parts[2:]]
        if after - begin < 12 or data[begin + 7 : begin + 11] != of_method or head[3] - head[2] < content.FLAGS + 3:
            return []
        try:
            left = content.body_size(data, head[2]) - sum(sizes)
        except AmqpError:
            return []
        if left or (sizes and not sizes[-1]):
            return []
    return found


def all_traced(data: bytes, limit: int) -> tuple[int, int, bytes, bytes] | None:
    """What is to be said of it if it is publishes alike that have a trace each."""
    found = whole_messages(data, limit, b"\0\x3c\0\x28")
    keys = set()
    for parts in found:
        begin, end = parts[0][2:]
        key, head = data[begin + 13 : end - 2], parts[1]
        try:
            second, more = key[0] + 1, data[head[2] + content.FLAGS + 1] & 1
            if more or second >= len(key) or second + 1 + key[second] != len(key):
                return None
            at = content.place(data, head[2], head[3], HEADERS)
            if at < 0 or find(data, at, table_end(data, at, head[3] - 1), content.TRACEPARENT[1:]) < 0:
                return None
        except (AmqpError, IndexError):
            return None
        keys.add(key)
    return (len(found), found[0][0][1], keys.pop(), data) if len(keys) == 1 else None


def deliveries(data: bytes, limit: int) -> tuple[int, int, int, bytes] | None:
    """What is to be said of it if it is deliveries to one consumer with consecutive tags: channel, tags, consumer."""
    found = whole_messages(data, limit, b"\0\x3c\0\x3c")
    tags = []
    consumers = set()
    for parts in found:
        arguments = Arguments(data, *parts[0][2:])
        try:
            consumers.add(arguments.short_bytes())
            tags.append(arguments.u64())
            arguments.skip(1)
            arguments.short_bytes(), arguments.short_bytes()
        except AmqpError:
            return None
        if arguments.pos != parts[0][3] - 1:
            return None
    if len(consumers) != 1 or not tags[0] or tags != list(range(tags[0], tags[0] + len(tags))):
        return None
    return found[0][0][1], tags[0], tags[-1], consumers.pop()


def acks(data: bytes, limit: int) -> tuple[int, int, int, None] | None:
    """The channel, and what is acknowledged: from the first number to the last, or (0) up to that."""
    first = last = 0
    found = frames(data, limit)
    for kind, channel, start, end in found:
        tag, multiple = int.from_bytes(data[start + 11 : start + 19], "big"), data[end - 2]
        if kind != 1 or end - start != 21 or data[start + 7 : start + 11] != b"\0\x3c\0\x50" or multiple > 1:
            return None
        if channel != found[0][1] or tag <= last or (start and not multiple and tag != last + 1):
            return None
        first = 0 if multiple else first if start else tag
        last = tag
    return (found[0][1], first, last, None) if found and found[-1][3] == len(data) else None


def compare_traces(
    module: ModuleType,
    data: bytes,
    start: int,
    end: int,
    found: list[list[Frame]],
    traces: Traces = USUAL,
) -> None:
    """The run with traces, put in by either."""
    limit, least, before, missing = traces
    ids = (bytes(range(256)) * (len(found) // 10 + 1))[: before + 24 * len(found)]
    wanted: list[bytes] | None = []
    for number, parts in enumerate(found):
        digits = ids[before + 24 * number : before + 24 * number + 24].hex()
        flag = 1 if len(least) == 14 and digits[18:32] >= least else 0
        entry = b"\x0btraceparentS\x00\x00\x00\x37" + f"00-{digits[:32]}-{digits[32:]}-0{flag}".encode()
        try:
            new = content.inject(data, parts[1][2], parts[1][3], entry, limit)
        except AmqpError:
            new = None
        if new is None or wanted is None:
            wanted = None
        else:
            wanted += [data[parts[0][2] : parts[0][3]], new, data[parts[1][3] : parts[-1][3]]]
    try:
        made = module.add_traces(data, start, end, limit, ids[: len(ids) - missing], before, least.encode())
    except ValueError:
        assert missing
        assert wanted is not None
    else:
        assert made == (None if wanted is None else b"".join(wanted))
        assert not missing or made is None
    if wanted is not None and not missing:
        longest = max(map(len, wanted[1::3]))
        assert module.add_traces(data, start, end, longest, ids, before, least.encode()) == made
        assert module.add_traces(data, start, end, longest - 1, ids, before, least.encode()) is None


def compare_input(module: ModuleType, data: bytes) -> int:
    """The same of what the fuzzer makes: what says how it is read (``runs_fuzz.c``), then the frames."""
    if len(data) < _HOW.size:
        return 0
    how, limit, ids = _HOW.unpack_from(data)
    data = data[_HOW.size :]
    limit = ANY if limit == 0xFFFF else limit
    largest = ANY if how & 1 else limit
    before = ids >> 2 & 3
    start, end = how >> 2 & 7, len(data) - (how >> 5)
    part = data[start : max(start, end)]
    if len(part) < len(data):
        units = module.cut(part, 0, len(part), largest, True)
        moved = [(kind, channel, at + start, to + start) for kind, channel, at, to in units]
        assert module.cut(data, start, max(0, end), largest, True) == moved
    if how & 2:
        compare_whatever(module, data, limit)
    least = ("9" * 14, "0" * 14, "", bytes(range(before + 9, before + 16)).hex())[ids & 3]
    return compare(module, part, largest, Traces(limit, least, before, ids >> 4 & 3))


def compare_whatever(module: ModuleType, data: bytes, limit: int) -> None:
    """Fail if what it makes of bytes that need not be a run follows from anything else than those."""
    ids = bytes(24 * (len(data) // 30 + 1))
    made = module.add_traces(data, 0, len(data), limit, ids, 0, b"")
    assert made == module.add_traces(b"\x01" + data + b"\xce", 1, 1 + len(data), limit, b"\0" + ids, 1, b"")
    assert made is None or len(made) > len(data)
