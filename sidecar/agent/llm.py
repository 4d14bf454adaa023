"""What an upstream that runs language models needs of its chains: times of its own, and patience."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sidecar.core.stats import ListenerStats
from sidecar.exchange.filter import Chain, Filter
from sidecar.exchange.times import Times
from sidecar.filters.order import STATEFUL
from sidecar.http.event_stream import event_stream

#: Their times for one try do not count: a model that is loaded is no server that hangs.
_FOR_OTHERS: Final = ("timeout", "circuit_breaker")
#: Where an exchange has what that filter remembers of it.
_PLACE: Final = STATEFUL.index("llm")


def chain_of(found: Sequence[Filter], made: Mapping[str, Any]) -> Chain:
    """A chain of these filters, with the times that it goes by."""
    times: Times = made["timeout"].times
    llm = made.get("llm")
    if llm is None:
        return Chain(found, times, min(f.patience() for f in found if f.guard is None))
    config = llm.config
    times = Times(
        times.connect, config.first_byte, config.between_chunks, times.total, times.head, times.keepalive
    )  # fmt: skip
    patience = min(f.patience() for f in found if f.guard is None and f.name not in _FOR_OTHERS)
    chain = Chain(found, times, patience)
    chain.patient = True
    chain.repeat = config.repeat
    chain.keep = max(chain.keep, config.max_body)
    return chain


def model_of(x: Any) -> str:
    """The model that a request is for, as far as that is known; empty: it is for none."""
    state = x.state
    visit = state[_PLACE] if len(state) > _PLACE else None
    model: str = visit.model if visit is not None else ""
    return model


def prepare(stats: ListenerStats, every: Iterable[Mapping[str, Any]]) -> None:
    """See to the filters of a port, those of its routes included."""
    found = {made["llm"] for made in every if made.get("llm")}
    for it in found:
        it.stream_of = event_stream
    if stats.llm is not None:
        stats.llm.slots = sum(it.limiter.limit for it in found)
