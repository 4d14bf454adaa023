"""Families of what is counted of upstreams that run language models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.core.metrics import Family, counter, gauge, histogram
from sidecar.core.stats import ListenerStats


def families(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    """None where there is no such upstream."""
    found = [(stats.upstream, stats.llm) for stats in listeners if stats.llm is not None]
    if not found:
        return ()
    by_model = ["upstream", "model"]
    slots = gauge(
        "sidecar_llm_slots", "Slots for answers that are used or free, and what waits.", ["upstream", "state"]
    )
    queued = histogram("sidecar_llm_queue_seconds", "From a request to its slot.", by_model)
    first_byte = histogram("sidecar_llm_first_byte_seconds", "From a try to its answer's first byte.", by_model)
    chunks = counter("sidecar_llm_chunks", "Pieces of answers: events, lines, or what came at once.", by_model)
    tokens = counter("sidecar_llm_tokens", "Tokens of answers that say how many they have.", by_model)
    seconds = counter("sidecar_llm_token_seconds", "Seconds in which those tokens were made.", by_model)
    for upstream, llm in found:
        slots.add([upstream, "used"], llm.used)
        slots.add([upstream, "free"], max(llm.slots - llm.used, 0))
        slots.add([upstream, "waiting"], llm.waiting)
        for model, it in list(llm.models.items()):
            labels = [upstream, model]
            queued.add_histogram(labels, it.queued)
            first_byte.add_histogram(labels, it.first_byte)
            chunks.add(labels, it.chunks)
            tokens.add(labels, it.tokens)
            seconds.add(labels, it.seconds)
    return slots, queued, first_byte, chunks, tokens, seconds
