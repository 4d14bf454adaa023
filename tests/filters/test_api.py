"""A chain holds the hooks that its filters really have, in their order."""

from __future__ import annotations

from typing import Any

from sidecar.config.model import Timeout
from sidecar.filters.api import Chain


class Asks:
    def on_request(self, x: Any) -> None: ...


class AsksAndEnds(Asks):
    def on_end(self, x: Any) -> None: ...


def test_only_what_is_there() -> None:
    first, second = Asks(), AsksAndEnds()
    chain = Chain([first, second], Timeout(), 5.0)
    assert chain.on_request == (first.on_request, second.on_request)
    assert chain.on_end == (second.on_end,)
    assert not any((chain.on_try, chain.on_answer, chain.on_failure, chain.on_connected))
    assert (chain.filters, chain.patience) == ((first, second), 5.0)
