"""What a filter may be, and what a chain makes of it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from sidecar.core import replies as errors
from sidecar.exchange.filter import Chain, Filter, FilterError, check
from sidecar.exchange.times import Times

TIMES = Times(connect=1.0, request=30.0, idle=300.0, total=0.0, head=10.0, keepalive=4.0)


class Asks(Filter):
    name: ClassVar[str] = "asks"

    def on_request(self, x: Any) -> None: ...


class AsksAndEnds(Asks):
    name: ClassVar[str] = "asks_and_ends"
    stateful: ClassVar[bool] = True

    def on_end(self, x: Any) -> None: ...


def test_a_chain_holds_the_hooks_that_are_overridden() -> None:
    first, second = Asks(), AsksAndEnds()
    chain = Chain([first, second], TIMES, 5.0)
    assert chain.on_request == (first, second)
    assert chain.on_end == (second,)
    assert not any((chain.on_try, chain.on_answer, chain.on_failure, chain.on_connected, chain.on_body))
    assert not any((chain.on_answer_body, chain.on_upgrade, chain.on_reply))
    assert (chain.filters, chain.patience) == ((first, second), 5.0)


def test_only_those_that_say_so_have_a_place_for_state() -> None:
    second = AsksAndEnds()
    second.place = 2
    assert Chain([Asks()], TIMES, 5.0).blank == []
    assert Chain([Asks(), second], TIMES, 5.0).blank == [None, None, None]


def test_good_ones_pass() -> None:
    check(Asks)
    check(AsksAndEnds)


def named(**members: Any) -> type:
    return type("Odd", (Filter,), {"name": "odd", **members})


async def later(self: Any, x: Any) -> None: ...


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"name": ""}, "name is ''"),
        ({"name": "Über"}, "name is 'Über'"),
        ({"on_reqest": lambda self, x: None}, "has on_reqest, which is no hook; hooks are on_request,"),
        ({"on_request": lambda self: None}, r"on_request\(self\) has to take \(self, x\)"),
        ({"on_answer": lambda self, x: None}, r"on_answer\(self, x\) has to take"),
        ({"on_end": lambda self, x, why: None}, r"on_end\(self, x, why\) has to take"),
        ({"on_end": later}, "on_end is a coroutine"),
        ({"replies": {"timeout": 503}}, "the code timeout has the status 504 already, not 503"),
        ({"replies": {"odd": 200}}, "200, of the code odd, is not the status of an error"),
        ({"replies": {"odd": 599}}, "599, of the code odd, is not the status of an error"),
    ],
)
def test_others_are_refused_when_they_are_registered(members: dict[str, Any], told: str) -> None:
    with pytest.raises(FilterError, match=told):
        check(named(**members))
    assert "odd" not in errors.STATUS


def test_what_is_no_filter_is_refused() -> None:
    with pytest.raises(FilterError, match="is no subclass of"):
        check(type("Nothing", (), {"name": "nothing"}))


def test_a_code_of_its_own_is_in_the_table_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "STATUS", dict(errors.STATUS))
    monkeypatch.setattr(errors, "_LINE", dict(errors._LINE))
    check(named(replies={"teapot": 418}))
    assert b"HTTP/1.1 418 I'm a Teapot\r\n" in errors.render(errors.Reply("teapot", "no"), "up", "", close=False)
