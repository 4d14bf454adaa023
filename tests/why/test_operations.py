"""What is asked of the list of stories."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core.operations import NotKnown
from sidecar.core.secret import NO_SECRET
from sidecar.why.operations import Api
from sidecar.why.peers import Peers
from sidecar.why.ring import Ring


@pytest.mark.parametrize("limit", ["", "0", "1001", "-1", "²", "0" * 8 + "19", "1" * 5000])
def test_a_limit_that_is_none(limit: str) -> None:
    api = Api(Ring(10), "shop", Peers(lambda: NO_SECRET, time.time))
    call: Any = SimpleNamespace(query=[("limit", limit)])
    assert asyncio.run(api.recent(call)).status == 400


def test_an_unknown_id_is_escaped_once() -> None:
    api = Api(Ring(10), "shop", Peers(lambda: NO_SECRET, time.time))
    call: Any = SimpleNamespace(parts={"request_id": "a\x1b[31m\n" + "x" * 500}, query=[])
    with pytest.raises(NotKnown) as error:
        asyncio.run(api.why(call))
    assert f"the request 'a\\x1b[31m\\n{'x' * 121}'" in str(error.value)
    assert str(error.value).isprintable()
