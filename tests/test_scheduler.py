"""Which file a worker gets next: what takes long first, and what shares a server where it is."""

from __future__ import annotations

import pytest

from support.harness.scheduler import next_file

FILES = ["a", "shared 1", "long", "shared 2", "z"]


def shares(file: str) -> bool:
    return file.startswith("shared")


def rank(file: str) -> int:
    return 0 if file == "long" else 1


@pytest.mark.parametrize(
    ("files", "sharer", "expected"),
    [
        (FILES, True, "shared 1"),  # the server is there
        (FILES, False, "long"),
        (["z", "a", "shared 1"], False, "z"),  # in their order
        (["shared 1", "shared 2"], False, "shared 2"),  # there is no other work: it helps
        (["a", "long"], True, "long"),
        (["shared 1"], True, "shared 1"),
    ],
)
def test_next_file(files: list[str], sharer: bool, expected: str) -> None:
    assert next_file(files, shares, rank, sharer) == expected


@pytest.mark.parametrize(("sharers", "expected"), [(1, "shared 2"), (2, None)])
def test_what_is_left_is_not_worth_a_third_server(sharers: int, expected: str | None) -> None:
    assert next_file(["shared 1", "shared 2"], shares, rank, sharer=False, sharers=sharers) == expected


@pytest.mark.parametrize(
    ("files", "waiters", "expected"),
    [
        (["tests/acceptance/a", "tests/b"], 3, "tests/acceptance/a"),
        (["tests/acceptance/a", "tests/b"], 4, "tests/b"),  # a core has nothing to do else
        (["tests/acceptance/a"], 4, "tests/acceptance/a"),
    ],
)
def test_not_all_workers_wait_while_there_is_work(files: list[str], waiters: int, expected: str) -> None:
    rank = {"tests/acceptance/a": 0, "tests/b": 1}.__getitem__
    assert next_file(files, shares, rank, sharer=False, waiters=waiters) == expected
