"""Ids that are drawn in bulk."""

from __future__ import annotations

import random
import re

import pytest

from sidecar.core.ids import IdLines, Ids


def test_ids_have_the_length_that_was_asked_for_and_differ() -> None:
    ids = Ids(random.Random(1))
    made = [ids.take(digits) for digits in [32, 48, 16, 1] * 1000]
    assert [len(one) for one in made] == [32, 48, 16, 1] * 1000
    assert all(re.fullmatch("[0-9a-f]+", one) for one in made)
    long = [one for one in made if len(one) >= 16]
    assert len(set(long)) == len(long)


def test_the_largest_request_takes_a_whole_pool() -> None:
    ids = Ids(random.Random(1))
    assert len(ids.take(4096)) == len(ids.take(4096)) == 4096


@pytest.mark.parametrize("digits", [(32,), (32, 16), (16, 1)])
def test_lines_have_new_ids_at_the_same_places(digits: tuple[int, ...]) -> None:
    lines = IdLines(random.Random(1), b"begin " + b"-".join(b"*" * many for many in digits) + b" end\r\n")
    form = re.compile(b"begin " + b"-".join(b"([0-9a-f]{%d})" % many for many in digits) + b" end\r\n")
    found = [form.fullmatch(lines.take()) for _ in range(1000)]
    ids = [one for line in found if line is not None for one in line.groups() if len(one) >= 16]
    assert None not in found
    assert len(set(ids)) == len(ids) >= 1000
