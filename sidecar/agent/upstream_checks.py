"""Checks of ``sidecar diagnose`` that are about one upstream."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.agent.findings import Finding, bad, good, none, some
from sidecar.core.text import counted
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.ping import NoAnswer, Pong, ping
from sidecar.net.causes import cause_of, words_for
from sidecar.net.dial import connect as connect_to
from sidecar.resilience.breaker import CLOSED, OPEN, held_words

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream

#: Endpoints that are asked, at most; seconds that each has for an answer.
MOST: Final = 16
ANSWER: Final = 2.0

#: What to do about a connection that cannot be made, by :mod:`sidecar.net.causes`.
STEPS: Final = {
    "refused": "start what should listen there, or correct the address",
    "no_route": "is that host up, and is there a route to its network? ip route get ADDRESS",
    "timeout": "a firewall that drops, or a host that is gone: try the same from another host",
    "reset": "something between here and there closes connections: a proxy, or a firewall",
    "denied": "a firewall rule on this host forbids it: iptables -L OUTPUT, nft list ruleset",
    "no_descriptors": "raise this process's limit: ulimit -n, or LimitNOFILE= of systemd",
    "no_ports": "widen net.ipv4.ip_local_port_range, or keep connections open",
    "no_memory": "see net.ipv4.tcp_mem, and what else runs on this host",
}
_STEP: Final = "try it by hand: nc -vz HOST PORT"


class Asked(NamedTuple):
    """What one endpoint said: the error of a connection, or an answer, or why there was none."""

    endpoint: Endpoint
    error: BaseException | None
    pong: Pong | None = None
    silence: str = ""


async def ask(running: RunningUpstream) -> Sequence[Asked]:
    """Ask endpoints, all at once: over HTTP for an answer, else for a connection."""
    endpoints = list(running.endpoints)
    if len(endpoints) > MOST:
        endpoints = random.sample(endpoints, MOST)
    http = running.config.protocol == "http"
    name = getattr(running.listener, "host", b"").decode("latin-1") or running.config.name
    return await asyncio.gather(*(_ask(endpoint, name if http else "") for endpoint in endpoints))


async def _ask(endpoint: Endpoint, name: str) -> Asked:
    try:
        async with asyncio.timeout(ANSWER):
            sock = await connect_to([(endpoint.host, endpoint.port)])
        sock.close()
        if not name:
            return Asked(endpoint, None)
    except (OSError, UnicodeError) as error:
        return Asked(endpoint, error)
    try:
        async with asyncio.timeout(ANSWER):
            return Asked(endpoint, None, await ping(endpoint.host, endpoint.port, name))
    except TimeoutError:
        return Asked(endpoint, None, None, f"it takes connections and has not answered within {ANSWER:g} s")
    except NoAnswer as error:
        return Asked(endpoint, None, None, str(error))
    except OSError as error:
        return Asked(endpoint, None, None, words_for(error))


def endpoints(running: RunningUpstream) -> Finding:
    """Whether any are known."""
    config, name = running.config, running.config.name
    found = running.endpoints
    lost = [f"{it.name} does not resolve: {it.error}" for it in running.names if it.error]
    if found and not lost:
        return good("endpoints", f"{counted(len(found), 'endpoint')}: {some([it.where for it in found])}", name)
    if lost or running.problem:
        evidence = some(lost) or running.problem
        known = f"; {counted(len(found), 'endpoint')} known" if found else "; no endpoint is known"
        return bad(
            "endpoints", evidence + known, "is the name right, and does the DNS know it? getent hosts NAME", name
        )
    discover = config.discover
    if discover is None:
        return bad("endpoints", "none is known", "give it endpoints, or discover", name)
    if discover.sentinel:
        return bad(
            "endpoints", running.master_problem or f"no sentinel has told the master {discover.sentinel!r} yet",
            "do the sentinels of discover.at answer? redis-cli -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME NAME", name,
        )  # fmt: skip
    tag = f" with the tag {discover.tag!r}" if discover.tag else ""
    return bad(
        "endpoints", f"the registry knows no healthy instance of {discover.service!r}{tag}",
        "is it registered under that name, and does its health check pass? its own sidecar registers it when its app "
        "is well", name,
    )  # fmt: skip


def connect(running: RunningUpstream, asked: Sequence[Asked]) -> Finding:
    """Whether they take connections."""
    name = running.config.name
    if not asked:
        return none("connect", "there is no endpoint", name)
    failed = [it for it in asked if it.error is not None and not it.endpoint.sidecar]
    if not failed:
        taken = sum(1 for it in asked if it.error is None)
        return good("connect", f"{taken} of {len(asked)}: each takes a connection", name)
    texts = [f"{it.endpoint.where}: {words_for(it.error)}" for it in failed]
    step = STEPS.get(cause_of(failed[0].error), _STEP)
    return bad("connect", f"{len(failed)} of {len(asked)} cannot be connected to: {some(texts)}", step, name)


def peers(running: RunningUpstream, asked: Sequence[Asked]) -> Finding:
    """Whether sidecars that stand in front of instances are there, and have an app."""
    name = running.config.name
    sidecars = [it for it in asked if it.endpoint.sidecar]
    if not sidecars:
        return none("peers", "no endpoint is known to be a sidecar", name)
    gone = [f"{it.endpoint.where}: {words_for(it.error)}" for it in sidecars if it.error is not None]
    codes = [(it, it.pong.fields.get("x-sidecar-error", "")) for it in sidecars if it.pong is not None]
    theirs = [f"{it.endpoint.where} answers {code} in place of its app" for it, code in codes if code in _NO_APP]
    if gone:
        return bad(
            "peers", f"sidecars are gone: {some(gone)}", "start that sidecar; its log says why it has ended", name
        )
    if theirs:
        return bad("peers", some(theirs), "the sidecar is there, its app is not: sidecar diagnose on that host", name)
    return good("peers", f"{counted(len(sidecars), 'sidecar')} answer", name)


#: What a peer says that cannot reach its app, or is about to go.
_NO_APP: Final = frozenset({"connect_failed", "connect_timeout", "no_endpoints", "draining", "timeout"})


def answers(running: RunningUpstream, asked: Sequence[Asked]) -> Finding:
    """Whether they answer: now, over HTTP; else what the last try of traffic came to."""
    name = running.config.name
    connected = [it for it in asked if it.error is None]
    if not connected:
        return none("answers", "there is no connection to ask over", name)
    silent = [f"{it.endpoint.where}: {it.silence}" for it in connected if it.silence]
    if silent:
        return bad("answers", some(silent), "what listens there hangs, or speaks something else: see its log", name)
    failing = [_last(it.endpoint) for it in connected if it.endpoint.failures and it.endpoint.last_error is not None]
    if failing:
        return bad("answers", f"requests failed: {some(failing)}", "the upstream's own log says more", name)
    pongs = [
        it.pong for it in connected if it.pong is not None and it.pong.fields.get("x-sidecar-error") not in _NO_APP
    ]
    if not pongs and any(it.pong is not None for it in connected):
        return none("answers", "only sidecars answer, not their apps: see peers", name)
    if not pongs:
        return none("answers", f"over {running.config.protocol} nothing can be asked", name)
    return good("answers", f"all of {len(pongs)} answer ({', '.join(sorted({str(it.status) for it in pongs}))})", name)


def _last(endpoint: Endpoint) -> str:
    last = endpoint.last_error
    assert last is not None
    return f"{endpoint.where}: {last.text}, {max(0.0, time.time() - last.at):.0f} s ago"


def breaker(running: RunningUpstream) -> Finding:
    """Whether circuit breakers let calls through."""
    name = running.config.name
    if not running.breakers:
        return none("breaker", "it is switched off", name)
    for it in running.breakers:
        it.look()
        if it.forced == "open":
            step = f"POST /upstreams/{name}/breaker/auto leaves it to itself again"
            return bad("breaker", f"it is {held_words('open', it.held)}", step, name)
    for it in running.breakers:
        if it.state == OPEN:
            step = "mend what fails (see connect, answers); or POST …/breaker/close to try at once"
            return bad("breaker", f"it is open: {it.cause}; tried again in {it.retry_after():.0f} s", step, name)
    for it in running.breakers:
        if it.forced == "closed":
            return good("breaker", f"it is {held_words('closed', it.held)}", name)
    half = any(it.state != CLOSED for it in running.breakers)
    return good("breaker", "half-open: trial calls pass" if half else "closed", name)


def _why_out(endpoint: Endpoint) -> str:
    if not endpoint.ejected_until and endpoint.checked is not None:
        return f"{endpoint.where} is unhealthy: {endpoint.checked.output}"
    if endpoint.ejected_for in ("error_rate", "latency") or endpoint.last_error is None:
        return f"{endpoint.where}: {endpoint.ejection}" if endpoint.ejection else endpoint.where
    return _last(endpoint)


def ejected(running: RunningUpstream) -> Finding:
    """Whether what came of tries, or active checks, keep endpoints out of the rotation."""
    name, known = running.config.name, running.endpoints
    out = [it for it in known if it.ejected_until or it.down]
    if not out:
        return good("ejected", "none", name) if known else none("ejected", "there is no endpoint", name)
    texts = [_why_out(it) for it in out]
    step = "they come back by themselves when they are well (health.eject: for, max_for; health.check: rise)"
    return bad("ejected", f"{len(out)} of {counted(len(known), 'endpoint')}: {some(texts)}", step, name)


async def broker(running: RunningUpstream) -> Finding:
    """Whether a broker lets the sidecar in, and where its queues cannot be watched."""
    from sidecar.amqp.login_check import Refused, log_in

    name, amqp = running.config.name, running.config.amqp
    known = running.endpoints
    if amqp is None or not known:
        return none("broker", "there is no endpoint" if amqp else "it speaks no AMQP", name)
    own, endpoint = amqp.credentials, known[0]
    vhosts = sorted({*amqp.vhosts, *(queue.vhost for queue in amqp.queues)}) or ["/"]
    user = own.username if own is not None else ""
    try:
        for vhost in vhosts if own is not None else vhosts[:1]:
            async with asyncio.timeout(ANSWER):
                await log_in(endpoint.host, endpoint.port, own, vhost)
    except Refused as error:
        if error.login:
            step = f"amqp.credentials: is the password of {user!r} right? rabbitmqctl authenticate_user {user} PASSWORD"
            return bad("broker", f"{endpoint.where} refuses the login of {user!r}: {error}", step, name)
        step = f"rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ; or is the virtual host another?"
        return bad("broker", f"{endpoint.where} refuses {user!r} the virtual host {vhost!r}: {error}", step, name)
    except TimeoutError:
        return bad(
            "broker", f"{endpoint.where} has not answered within {ANSWER:g} s", "is the broker up? see its log", name
        )
    except (OSError, EOFError) as error:
        text = words_for(error) if isinstance(error, OSError) else str(error)
        return bad("broker", f"{endpoint.where}: {text}", "is the broker running, and is this its AMQP port?", name)
    view = running.amqp
    unwatched = [f"{it.name}: {it.problem}" for it in view.stats.queues.values() if it.problem] if view else []
    if unwatched:
        step = f"does {user!r} have the permission to read them, and are they there? rabbitmqctl list_permissions"
        return bad("broker", f"queues cannot be watched: {some(unwatched)}", step, name)
    if own is None:
        return good("broker", f"{endpoint.where} is a broker; the sidecar has no login of its own to try", name)
    return good("broker", f"{endpoint.where} lets {user!r} into {', '.join(vhosts)}", name)


#: What is asked of every upstream that has been asked for connections and answers.
OF_ANSWERS: Final[tuple[Callable[[Any, Sequence[Asked]], Finding], ...]] = (connect, peers, answers)
