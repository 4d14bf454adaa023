"""Ids that are drawn in bulk."""

from __future__ import annotations

import random
import re

from sidecar.core.ids import Ids


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
