from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sidecar.agent import orphan
from sidecar.agent.orphan import Orphaned, watch, without_loopback

ETH = frozenset({"eth0"})
NONE: frozenset[str] = frozenset()


def looks(*found: frozenset[str]) -> Callable[[], frozenset[str]]:
    them = list(found)

    def look() -> frozenset[str]:
        if not them:
            raise OSError("seen enough")
        return them.pop(0)

    return look


def test_what_leads_to_others() -> None:
    assert without_loopback(["lo", "eth0", "tunl0", "wg0"]) == {"eth0", "wg0"}
    assert "lo" not in orphan.interfaces()


def test_only_the_loopback_is_left() -> None:
    with pytest.raises(Orphaned, match=r"\(eth0\).*only the loopback is left"):
        asyncio.run(watch(looks(ETH, ETH, NONE, NONE), 0.0))


def test_one_that_comes_back_in_time() -> None:
    asyncio.run(watch(looks(ETH, NONE, ETH, NONE, ETH), 0.0))


def test_there_was_nothing_else_from_the_beginning() -> None:
    asyncio.run(watch(looks(NONE), 0.0))
