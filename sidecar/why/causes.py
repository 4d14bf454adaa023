"""One sentence of cause for a story, and the key of the configuration that would change it: a table by error code.

Pure: a story in, a sentence out. What the sentences say comes from the story's events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.why.llm import of_llm
from sidecar.why.messages import of_message
from sidecar.why.outcomes import without_error
from sidecar.why.reading import Reading, did, did_word, seconds, where


class Cause(NamedTuple):
    """``setting`` is a configuration path, or ``None``: no setting would change it."""

    sentence: str
    setting: str | None = None


def cause_of(story: Mapping[str, Any]) -> Cause:
    """Why a story went as it did."""
    reading = Reading(story)
    error = story.get("error")
    if story.get("kind") == "message":
        return Cause(*of_message(reading))
    if not error:
        cause = _fallback(reading) or _stale(reading) or Cause(*without_error(reading))
    else:
        cause = _waited(reading, _of_code(reading, str(error)))
    return _tried(reading, _faulty(reading, cause))


def _tried(r: Reading, cause: Cause) -> Cause:
    """The same cause; of a request that failed, that it was one of a canary's."""
    failed = [it for it in r.attempts if it.get("canary") and (it.get("failure") or (it.get("status") or 0) >= 500)]
    if not failed:
        return cause
    it = failed[-1]
    share = f"which is tried with {it['canary']} % of the requests"
    return Cause(f"{cause.sentence}; it was sent to the canary {it.get('subset')}, {share}", cause.setting)


def _of_code(r: Reading, error: str) -> Cause:
    explain = CAUSES.get(error)
    if explain is None:  # a code of a filter of another package
        return Cause(r.message or f"it was answered {error}", r.at("filters"))
    return explain(r)


def _fallback(r: Reading) -> Cause | None:
    """A step of a fallback has answered: which one, and why it had to."""
    event = r.last("fallback")
    if event is None:
        return None
    code = str(event.get("instead_of"))
    why = f"{r.who} answered {code}" if code.isdigit() else _waited(r, _of_code(r, code)).sentence
    by = {
        "upstream": f"sent it to {event.get('upstream')}",
        "stale": "gave an earlier answer",
        "answer": "gave its own answer",
    }.get(str(event.get("by")), "answered")
    before = event.get("before")
    skipped = f" (before it: {'; '.join(map(str, before))})" if isinstance(before, list) else ""
    return Cause(f"step {event.get('step')} of the fallback {by}{skipped}, because {why}", r.at("fallback"))


#: What a fault did, by its kind.
_FAULTS: Final = {"delay": "it was made to wait", "reset": "its client was reset", "throttle": "its answer was slowed"}


def _faulty(r: Reading, cause: Cause) -> Cause:
    """The same cause, after the fault that was injected into it."""
    event = r.last("fault")
    if event is None or r.story.get("error") == "fault_injected" or r.last("fallback") is not None:
        return cause
    kind = str(event.get("kind"))
    how = {
        "delay": f" {seconds(event.get('delay_ms'))}",
        "throttle": f" to {event.get('bytes_per_second')} bytes per second",
    }.get(kind, "")
    return Cause(f"{_FAULTS.get(kind, 'it was hit')}{how} {_purpose(event)}: {cause.sentence}", _whose(r, event))


def _purpose(event: Mapping[str, Any]) -> str:
    by = event.get("by")
    return f"by a fault that {by} has put with PUT /faults" if by else "by a fault of the configuration"


def _whose(r: Reading, event: Mapping[str, Any]) -> str | None:
    """What would end the fault: a setting, unless it was put by the admin API."""
    return None if event.get("by") else r.at("faults")


def _fault_injected(r: Reading) -> Cause:
    event = r.last("fault") or {}
    if not event:
        return Cause(r.message or "a fault was injected", r.at("faults"))
    what = "its client was reset" if event.get("kind") == "reset" else f"it was answered {event.get('status')}"
    over = "; DELETE /faults ends that" if event.get("by") else ""
    return Cause(f"{what} on purpose, {_purpose(event)}: {r.who} was not asked{over}", _whose(r, event))


def _stale(r: Reading) -> Cause | None:
    """The cache has answered in place of an upstream that is down."""
    event = r.last("stale")
    if event is None:
        return None
    code = str(event.get("instead_of"))
    why = f"{r.who} answered {code}" if code.isdigit() else _waited(r, _of_code(r, code)).sentence
    return Cause(f"the cache gave an answer that is {event.get('age_s')} s old, because {why}", r.at("cache"))


def _waited(r: Reading, cause: Cause) -> Cause:
    """The same cause, with the time that it waited for another outcome."""
    event, over = r.last("wait"), r.last("waited_too_long")
    if event is None or over is None:
        return cause
    waited = seconds(over["at_ms"] - event["at_ms"])
    return Cause(f"{cause.sentence}; it had waited {waited} for {r.who} to come back", cause.setting)


def _bad_request(r: Reading) -> Cause:
    if "in time" in r.message:
        return Cause(f"the client did not finish its request head: {r.message}", r.at("timeout.head"))
    return Cause(f"the request is malformed or ambiguous, so it went no further: {r.message}")


def _headers_too_large(r: Reading) -> Cause:
    message = r.message
    key = "target" if "target" in message else "headers" if "header fields" in message else "head"
    return Cause(f"{message}: more than limits.{key} allows", r.at(f"limits.{key}"))


def _body_too_large(r: Reading) -> Cause:
    return Cause(f"{r.message or 'the request body is too large'}: more than limits.body allows", r.at("limits.body"))


def _rate_limited(r: Reading) -> Cause:
    event = r.last("rate_limit") or {}
    key, rate = str(event.get("key", "none")), float(event.get("rate", 0))
    speed = f"{rate:.4g} per second" if rate >= 1 else f"{rate * 60:.4g} per minute"
    whose = {"none": "all clients together", "ip": "one address", "path": "one path"}.get(key, f"one value of {key}")
    shared, sidecars = event.get("shared"), event.get("sidecars")
    if shared == "refuse":
        return Cause(
            "Redis, in which the limit of all sidecars is kept, was away, and nothing passes then", "redis.on_failure"
        )
    among = ""
    if shared == "redis":
        among = f" in all {sidecars} sidecars together" if isinstance(sidecars, int) and sidecars > 1 else ""
    elif shared:
        among = f" (in this sidecar its share, one {sidecars}th, because Redis was away)" if sidecars != 1 else ""
    return Cause(
        f"the rate limit of {speed} (burst {event.get('burst')}) for {whose}{among} was used up; "
        f"the next request would pass in {seconds(event.get('wait_ms'))}",
        r.at("rate_limit.rate"),
    )


def _no_endpoints(r: Reading) -> Cause:
    event = r.last("no_endpoint") or {}
    if event.get("subset") and event.get("problem"):
        return Cause(f"there is no address to send it to: {event['problem']}", r.at(f"subsets.{event['subset']}"))
    if event.get("problem"):
        return Cause(f"there is no address to send it to: {event['problem']}", r.source_key())
    if event.get("candidates"):
        return Cause(_all_out(r, event["candidates"]), r.at("health.when_none"))
    source = r.source()
    if source.get("from") == "discover":
        service, tag = source.get("service"), source.get("tag")
        what = f"instance of {service}" + (f" with the tag {tag}" if tag else "")
        if source.get("up") is False:
            return Cause(
                f"no {what} is known, and the registry {source.get('registry')} has not answered for "
                f"{seconds(source.get('age_ms'))}",
                "registry",
            )
        return Cause(
            f"the registry {source.get('registry')} has no healthy {what}",
            r.at("discover.tag" if tag else "discover.service"),
        )
    return Cause(f"there is no endpoint of {r.who} to send it to", r.source_key())


def _all_out(r: Reading, candidates: Sequence[Mapping[str, Any]]) -> str:
    """Why none of the endpoints that there are was used."""
    told = []
    for it in candidates[:3]:
        if it.get("ejected_for"):
            text = f"is ejected for {seconds(it.get('ejected_ms'))} ({it.get('ejection')})"
        elif it.get("state") == "unhealthy":
            text = f"is unhealthy ({it.get('check')})"
        else:
            text = "asks for no traffic (its weight is 0)"
        told.append(f"{it.get('endpoint')} {text}")
    more = f", and {len(candidates) - 3} more" if len(candidates) > 3 else ""
    return f"no endpoint of {r.who} is in the rotation, and none is used then: {', '.join(told)}{more}"


def _circuit_open(r: Reading) -> Cause:
    event = r.last("circuit_open") or {}
    if event.get("forced"):
        return Cause(
            f"the breaker of {r.upstream} is {event.get('held') or 'held open by hand'}; "
            f"POST /upstreams/{r.upstream}/breaker/auto lets it go",
        )
    last = ""
    if event.get("last_failure"):
        last = f", the last because {did_word(event.get('last_endpoint'), event['last_failure'])}"
    within = f" within {seconds(event['failed_within_ms'])}" if "failed_within_ms" in event else ""
    if event.get("state") == "half_open":
        return Cause(
            f"the breaker of {r.upstream} is half-open and all its trial calls are under way; it had opened after "
            f"{event.get('failures')} failed calls{within}{last}",
            r.at("circuit_breaker.half_open_requests"),
        )
    return Cause(
        f"{event.get('failures')} calls in a row failed{within}{last}; the breaker has been open for "
        f"{seconds(event.get('open_ms'))} and tries again in {seconds(event.get('again_in_ms'))}",
        r.at("circuit_breaker.reset_timeout"),
    )


def _overloaded(r: Reading) -> Cause:
    if (of_slots := of_llm(r)) is not None:
        return Cause(*of_slots)
    event = r.last("waited_too_long", "bulkhead_full", "bulkhead_shed", "connections_in_use", "tunnels_full")
    what = event.get("what") if event is not None else ""
    if event is not None and event.get("by") == "adaptive":
        return _over_what_was_found(r, event)
    if event is not None and what == "bulkhead_full":
        return Cause(
            f"{event.get('active')} requests were in progress (bulkhead.{event.get('by')} {event.get('limit')}) and "
            f"{event.get('pending')} waited (bulkhead.max_pending {event.get('max_pending')}): there was no place left"
            f"{_for(event)}",
            r.at(f"bulkhead.{event.get('by')}"),
        )
    if event is not None and what == "bulkhead_shed":
        return Cause(_shed(event), r.at("bulkhead.priority"))
    if what == "waited_too_long":
        began = r.last("bulkhead_wait") or {}
        return Cause(
            f"it waited {seconds(began.get('pending_timeout_ms'))} for one of {began.get('limit')} slots "
            f"(bulkhead.{began.get('by')}) and none came free",
            r.at("bulkhead.pending_timeout"),
        )
    if what == "connections_in_use":
        return Cause(f"all connections to {r.who} that there may be were in use", r.at("bulkhead.max_connections"))
    if event is not None and what == "tunnels_full":
        return Cause(
            f"{event.get('active')} upgraded connections were open, and no more are allowed",
            r.at("bulkhead.max_tunnels"),
        )
    if "queue" in r.message:
        return Cause(r.message, r.at("queue.max_bytes"))
    return Cause(f"the listener takes no more clients: {r.message}", r.at("limits.connections"))


def _over_what_was_found(r: Reading, event: Mapping[str, Any]) -> Cause:
    """A limit that was found was reached."""
    if event.get("what") == "bulkhead_shed":
        return Cause(_shed(event), r.at("bulkhead.adaptive"))
    return Cause(
        f"{event.get('active')} requests were in progress, as many as {r.who} was found to have room for "
        f"(bulkhead.adaptive: {event.get('limit')}), and {event.get('pending')} waited: there was no place left"
        f"{_for(event)}",
        r.at("bulkhead.max_pending"),
    )


def _shed(event: Mapping[str, Any]) -> str:
    why = (
        "something more important came and the queue was full"
        if event.get("because") == "displaced"
        else "more came than could be done"
    )
    return (
        f"it waited {seconds(event.get('waited_ms'))} for one of {event.get('limit')} slots and was given up"
        f"{_for(event)}: {why} ({event.get('active')} in progress, {event.get('pending')} waiting)"
    )


def _for(event: Mapping[str, Any]) -> str:
    priority = event.get("priority")
    return f" for what is {priority}" if priority else ""


def _draining(r: Reading) -> Cause:
    return Cause(
        "the sidecar of this instance drains: the workload is being shut down, and others take over", "drain.timeout"
    )


def _connect_failed(r: Reading) -> Cause:
    attempt = r.attempts[-1] if r.attempts else {}
    return Cause(f"{r.who}: {did(attempt)}{r.tries()}", r.source_key())


def _connect_timeout(r: Reading) -> Cause:
    attempt = r.attempts[-1] if r.attempts else {}
    over = r.last("time_over") or {}
    return Cause(
        f"{where(attempt)} did not take the connection within {seconds(over.get('after_ms', attempt.get('took_ms')))}"
        f"{r.tries()}",
        r.at("timeout.connect"),
    )


def _timeout(r: Reading) -> Cause:
    event = r.last("client_stalled", "time_over") or {}
    which = str(event.get("which", "timeout.request"))
    if event.get("what") == "client_stalled":
        if which == "limits.body_rate":
            text = f"the client sent its body more slowly than {event.get('body_rate')} bytes per second"
        else:
            text = f"the client sent nothing more of its body for {seconds(event.get('silent_ms'))}"
        return Cause(f"{text} ({event.get('bytes')} bytes had come)", r.at(which))
    after = seconds(event.get("after_ms"))
    if which in ("timeout.idle", "llm.between_chunks"):
        return Cause(f"neither side said anything for {after}", r.at(which))
    if which == "timeout.total":
        return Cause(f"the whole exchange took longer than the {after} that it may", r.at(which))
    if r.last("no_time_left") is not None:
        return Cause("its caller had no time left for it, so nothing was asked")
    attempt = r.attempts[-1] if r.attempts else None
    if which == "x-sidecar-deadline":
        whom = where(attempt) if attempt is not None else r.who
        return Cause(f"{whom} gave no answer within the {after} that its caller had left for it{r.tries()}")
    if attempt is None:
        return Cause(f"no answer was there within {after}: {r.message}", r.at(which))
    return Cause(f"{where(attempt)} gave no answer within the {after} of {which}{r.tries()}", r.at(which))


def _upstream_reset(r: Reading) -> Cause:
    cut = r.last("cut_off")
    if cut is not None:
        return Cause(
            f"{where(cut)} closed the connection in the middle of its answer, after {cut.get('bytes')} bytes of it"
        )
    attempt = r.attempts[-1] if r.attempts else {}
    if attempt.get("kept"):
        return Cause(
            f"{where(attempt)} closed a kept connection just as it was used{r.tries()}", r.at("timeout.keepalive")
        )
    after = f", after {seconds(attempt['waiting_ms'])}" if "waiting_ms" in attempt else ""
    return Cause(f"{where(attempt)} closed the connection before it answered{after}{r.tries()}", r.retry_key())


def _bad_upstream(r: Reading) -> Cause:
    bad = r.last("bad_answer")
    text = str(bad.get("problem")) if bad is not None else r.message.partition(": ")[2] or r.message
    attempt = bad or (r.attempts[-1] if r.attempts else {})
    key = "limits.headers" if "header fields" in text else "limits.head" if "large" in text else "protocol"
    return Cause(f"the answer of {where(attempt)} cannot be used: {text}{r.tries()}", r.at(key))


def _local_shortage(r: Reading) -> Cause:
    event = r.last("shortage")
    reason = event.get("reason") if event is not None else r.message
    return Cause(
        f"the host of this sidecar is short of something that a connection needs: {reason}; neither {r.who} nor the "
        "client is to blame. ulimit -n is the bound for descriptors"
    )


def _outcome_unknown(r: Reading) -> Cause:
    return Cause(
        "the disk failed while the request was being stored, so nobody knows yet whether it is", r.at("queue.path")
    )


def _filter_failed(r: Reading) -> Cause:
    return Cause(f"{r.message or 'a filter of another package failed'}; the log has its traceback", r.at("filters"))


#: By code: see ``docs/why.md``.
CAUSES: Final[Mapping[str, Callable[[Reading], Cause]]] = {
    "bad_request": _bad_request,
    "headers_too_large": _headers_too_large,
    "body_too_large": _body_too_large,
    "rate_limited": _rate_limited,
    "no_endpoints": _no_endpoints,
    "circuit_open": _circuit_open,
    "overloaded": _overloaded,
    "draining": _draining,
    "connect_failed": _connect_failed,
    "connect_timeout": _connect_timeout,
    "timeout": _timeout,
    "upstream_reset": _upstream_reset,
    "bad_upstream": _bad_upstream,
    "local_shortage": _local_shortage,
    "outcome_unknown": _outcome_unknown,
    "filter_failed": _filter_failed,
    "fault_injected": _fault_injected,
}
