"""What circuit breakers count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.core.metrics import Family, gauge
from sidecar.resilience.breaker import CircuitBreaker


def families(upstreams: Mapping[str, Sequence[CircuitBreaker]]) -> Iterable[Family]:
    """Return the state of each upstream's breakers. One of a route that is worse than the upstream's own is what an
    alert should see."""
    state = gauge("sidecar_circuit_breaker_state", "0 closed, 1 half-open, 2 open.", ("upstream",))
    # Only grows, but a counter's name would have to end in _total, and this one is promised.
    open_for = gauge("sidecar_circuit_breaker_open_seconds", "Time spent open, in all.", ("upstream",))
    for name, breakers in upstreams.items():
        if breakers:
            state.add((name,), max(breaker.state for breaker in breakers))
            open_for.add((name,), max(breaker.open_seconds() for breaker in breakers))
    return state, open_for
