"""What the registration of another sidecar says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.agent.peers import others, peer_of
from sidecar.core.instance import Instance

META = {"service": "shop", "admin_port": "15000", "calls": "tasks,model,+3"}


def registered(tags: tuple[str, ...] = ("sidecar",), port: int = 15020, **meta: str) -> Instance:
    return Instance(host="10.0.0.1", port=port, id="shop-1-sidecar", tags=tags, meta={**META, **meta})


def test_it_says_who_it_is_and_whom_it_calls() -> None:
    peer = peer_of(registered())
    assert peer is not None
    assert (peer.service, peer.id, peer.admin, list(peer.calls)) == (
        "shop", "shop-1", "10.0.0.1:15000", ["tasks", "model"],
    )  # fmt: skip


@pytest.mark.parametrize("port", ["", "0", "65536", "99999", "-1", "8o", "٨٠", "15000 "])
def test_a_port_that_is_none_is_not_asked(port: str) -> None:
    peer = peer_of(registered(admin_port=port))
    assert peer is not None
    assert peer.admin == ""


@pytest.mark.parametrize("odd", [{"tags": ()}, {"service": ""}, {"service": "x" * 200}])
def test_what_is_no_sidecar_is_nobody(odd: dict[str, Any]) -> None:
    assert peer_of(registered(**odd)) is None


def test_calls_have_bounds() -> None:
    peer = peer_of(registered(calls=",".join(["x" * 200, "", *(f"s{n}" for n in range(100))])))
    assert peer is not None
    assert list(peer.calls) == [f"s{n}" for n in range(64)]


class Known:
    """A registry that knows these."""

    def __init__(self, *found: Instance) -> None:
        self.found = found

    async def sidecars(self) -> tuple[Instance, ...]:
        return self.found


def test_others_are_all_but_this_one() -> None:
    known: Any = Known(registered(), registered(port=15021), registered(tags=()))
    assert [it.service for it in asyncio.run(others(known, "10.0.0.1", 15020))] == ["shop"]
    assert asyncio.run(others(None, "10.0.0.1", 15020)) == ()
