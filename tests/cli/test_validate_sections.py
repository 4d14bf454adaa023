"""The sections of ``sidecar validate``: what each says of a mesh that is broken in some way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import aiohttp
import pytest

from sidecar.cli.validate import balancing, breakers, dashboard, discovery, infrastructure, performance
from sidecar.cli.validate.findings import Finding, Section
from sidecar.cli.validate.lab import THRESHOLD, WEIGHTS, Lab
from sidecar.cli.validate.lookup import Lookup, LookupFailed
from sidecar.cli.validate.peers import Peer, PeerError, Reply
from sidecar.cli.validate.run import Run
from sidecar.cli.validate.sample import Instance
from sidecar.endpoints.balancers.table import NAMES as BALANCERS
from sidecar.registry import Settings

HTTP = cast(aiohttp.ClientSession, None)
ENDPOINT: dict[str, Any] = {"id": "tasks-1", "ejected": False, "last_error": None}


class Told(Peer):
    """A sidecar that answers what it is told to: status, content, and perhaps fields."""

    def __init__(self, pages: Mapping[str, tuple[Any, ...]]) -> None:
        super().__init__("http://10.0.0.1:15000/", "", HTTP)
        self.pages = pages

    async def get(self, path: str, accept: str = "*/*", *, first: bool = False) -> Reply:
        found = self.pages.get(path)
        if found is None:
            raise PeerError("connection refused")
        status, content, *more = found
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return Reply(status, more[0] if more else {}, body, 0.001)


class Books:
    """A registry in memory; ``away``: it does not answer."""

    def __init__(self, **services: set[str]) -> None:
        self.found = services
        self.away = False
        self.closed = False

    async def services(self) -> list[str]:
        if self.away:
            raise LookupFailed("no answer within 5 s")
        return sorted(self.found)

    async def instances(self, service: str) -> tuple[Any, ...]:
        await asyncio.sleep(0)
        if self.away:
            raise LookupFailed("no answer within 5 s")
        return tuple(self.found[service])

    async def forget(self, service: str, id: str) -> None:
        self.found[service].discard(id)

    async def close(self) -> None:
        self.closed = True


class Registered:
    """An instance's registration, which the lab's registry believes at once, unless that is ``deaf`` to it."""

    def __init__(self, lab: Sample, name: str) -> None:
        self._lab = lab
        self._name = name

    def set_health(self, status: str, output: str) -> None:
        if self._lab.deaf != status:
            (self._lab.ids.add if status == "passing" else self._lab.ids.discard)(self._name)

    async def leave(self) -> None:
        if self._lab.deaf != "leave":
            self._lab.ids.discard(self._name)


class Sample:
    """Stands for the validation's own sidecar. ``answers`` decides each request."""

    def __init__(self) -> None:
        self.service, self.sample = "sidecar-validate-1", "sidecar-validate-1-sample"
        self.instances = [Instance(f"{self.sample}-{n}", weight) for n, weight in enumerate(WEIGHTS, 1)]
        self.ids = {it.name for it in self.instances}
        self.own = {f"{self.service}-1"}
        self.lookup: Books | None = Books(**{self.sample: self.ids})
        self.registrations = {it.name: Registered(self, it.name) for it in self.instances}
        self.deaf = ""
        self.answers: Callable[[str, int], tuple[int, str, str]] = self.turns
        self.calls = 0
        self.breaker: list[Any] = []
        self.unknown = False
        self.at = 0

    def turns(self, upstream: str, number: int) -> tuple[int, str, str]:
        """Each in its turn; by weight or always the first where it has to be."""
        picks = {"weighted": (0, 1, 2, 2), "ip_hash": (0,), "consistent_hash": (0,)}.get(upstream, (0, 1, 2))
        return 200, "", self.instances[picks[number % len(picks)]].name

    async def call(self, upstream: str) -> tuple[int, str, str]:
        self.calls += 1
        return self.answers(upstream, self.calls - 1)

    async def known(self, upstream: str) -> set[str]:
        return set() if self.unknown else set(self.ids)

    async def registered(self, service: str) -> set[str]:
        assert self.lookup is not None
        if self.lookup.away:
            raise LookupFailed("no answer within 5 s")
        return set(self.ids if service == self.sample else self.own)

    async def upstream(self, name: str) -> dict[str, Any]:
        found = self.breaker.pop(0) if len(self.breaker) > 1 else self.breaker[0]
        if isinstance(found, Exception):
            raise found
        return {"breaker": found}

    def enroll(self, instance: Instance) -> None:
        if self.deaf != "enroll":
            self.ids.add(instance.name)

    def port(self, upstream: str) -> int:
        return self.at

    async def close(self) -> list[str]:
        return ["the folder /tmp/x"]


@pytest.fixture(autouse=True)
def _looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here becomes true by waiting."""

    async def once(look: Callable[[], Awaitable[bool]], seconds: float = 0.0) -> float | None:
        return 0.25 if await look() else None

    for module in (balancing, breakers, discovery):
        monkeypatch.setattr(module, "seen", once)


def of(peers: list[Peer], lab: Sample | None = None, **more: Any) -> Run:
    settings = Settings() if lab is not None else None
    found = Run(peers, HTTP, settings, "none", lambda text: None, **more)
    if lab is not None:
        found._lab = cast(Lab, lab)
    return found


def found_by(check: Callable[[Run, Section], Awaitable[None]], run: Run, **section: Any) -> dict[str, Finding]:
    """The last finding of each check."""
    told = Section("it", **section)

    async def asked() -> None:
        await check(run, told)

    asyncio.run(asked())
    run_figures.clear()
    run_figures.update(told.figures)
    return {it.check: it for it in told.findings}


run_figures: dict[str, Any] = {}


def results(found: Mapping[str, Finding]) -> dict[str, str]:
    return {check: it.result for check, it in found.items()}


def upstreams(*found: Any) -> Told:
    return Told({"/upstreams": (200, {"upstreams": list(found)})})


# -- infrastructure ----------------------------------------------------------------------------------------------------

HEALTH: dict[str, Any] = {"service": "shop", "id": "shop-1", "status": "healthy", "app": {"output": "200"},
                          "registry": {"up": True}}  # fmt: skip
METRICS = (200, b"# HELP a\nsidecar_build_info 1\n\nother 2\n")
WELL: dict[str, tuple[Any, ...]] = {
    "/ready": (200, {"ready": True, "phase": "ready"}), "/health": (200, HEALTH), "/metrics": METRICS,
}  # fmt: skip


def test_a_sidecar_that_is_well() -> None:
    found = found_by(infrastructure.check, of([Told(WELL)], Sample()))
    assert found["10.0.0.1:15000"].evidence == "shop (shop-1) is ready"
    assert found["metrics"].evidence == "10.0.0.1:15000: 2 series for Prometheus"
    assert found["registry"].evidence == "the mesh has none"
    assert "its registry" not in found


def test_a_sidecar_that_is_not() -> None:
    away = {"url": "consul://c", "up": False, "age": 7}
    pages = {
        "/ready": (503, {"ready": False, "phase": "starting"}),
        "/health": (503, {**HEALTH, "status": "unhealthy", "app": None, "registry": away}),
        "/metrics": (200, b"something else"),
    }
    found = found_by(infrastructure.check, of([Told(pages)], problem="which one it is is not known"))
    assert set(results(found).values()) == {"bad"}
    assert found["registry"].evidence == "which one it is is not known"
    assert found["10.0.0.1:15000"].evidence.endswith("starting, not ready")
    assert found["its registry"].evidence == "10.0.0.1:15000: consul://c has not answered it for 7 s"


@pytest.mark.parametrize(
    ("ready", "says"),
    [((401, {}), "admin token"), ((404, {}), "/ready answers 404"), ((200, []), "not the admin API"),
     ((200, b"[" * 100_000), "not the admin API"), (None, "refused")],
)  # fmt: skip
def test_what_is_no_sidecar(ready: Any, says: str) -> None:
    pages = {**WELL, "/ready": ready} if ready else {}
    found = found_by(infrastructure.check, of([Told(pages)], Sample()))
    assert says in found["10.0.0.1:15000"].evidence
    assert "metrics" not in found


def test_the_registry_answers_or_is_away() -> None:
    books = Books(a=set(), b=set())
    run = of([], Sample(), lookup=cast(Lookup, books))
    assert found_by(infrastructure.check, run)["registry"].evidence.endswith(": 2 services")
    assert not run.registry_away
    books.away = True
    assert results(found_by(infrastructure.check, run)) == {"registry": "bad"}
    assert results(found_by(infrastructure.check, run, lenient=True)) == {"registry": "warn"}
    assert run.registry_away


# -- service discovery -------------------------------------------------------------------------------------------------


def test_a_life() -> None:
    peer = upstreams({"name": "tasks", "endpoints": [ENDPOINT]}, {"name": "db", "endpoints": "?"}, 7)
    found = found_by(discovery.check, of([peer], Sample()))
    assert found.pop("upstream").evidence == "10.0.0.1:15000: db has no endpoint"
    assert list(found) == [
        "registration", "own registration", "discovery", "ill instance", "well again", "deregistration", "come back",
    ]  # fmt: skip
    assert set(results(found).values()) == {"good"}


@pytest.mark.parametrize(
    ("deaf", "last"),
    [("critical", "ill instance"), ("passing", "well again"), ("leave", "deregistration"), ("enroll", "come back")],
)
def test_a_registry_that_is_deaf(deaf: str, last: str) -> None:
    lab = Sample()
    lab.deaf = deaf
    found = found_by(discovery.check, of([], lab))
    assert list(found)[-1] == last
    assert found[last].result == "bad"


def test_a_registry_that_lets_nothing_in() -> None:
    lab = Sample()
    lab.own.clear()
    found = found_by(discovery.check, of([], lab))
    assert results(found) == {"registration": "good", "own registration": "bad"}
    assert "did not come to be in the registry" in found["own registration"].evidence


def test_a_sidecar_that_finds_nobody() -> None:
    lab = Sample()
    lab.unknown = True
    found = found_by(discovery.check, of([], lab))
    assert "the sidecar knows none instead of" in found["discovery"].evidence
    assert list(found)[-1] == "discovery"


def test_a_registry_that_goes_away_meanwhile_and_none() -> None:
    lab = Sample()
    assert lab.lookup is not None
    lab.lookup.away = True
    assert results(found_by(discovery.check, of([], lab))) == {"registry": "bad"}
    lab.lookup = None
    assert results(found_by(discovery.check, of([], lab))) == {"registration": "none"}
    gone = found_by(discovery.check, of([Told({})]))
    assert results(gone) == {"10.0.0.1:15000": "bad", "own sidecar": "none"}


# -- load balancing ----------------------------------------------------------------------------------------------------


async def _nothing() -> None:
    pass


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Sample:
    found = Sample()
    monkeypatch.setattr(Instance, "shut", lambda self: _nothing())
    monkeypatch.setattr(Instance, "listen", lambda self: _nothing())
    return found


def test_each_picks_as_it_should(lab: Sample) -> None:
    found = found_by(balancing.check, of([], lab))
    assert list(found) == [*BALANCERS, "dead instance"]
    assert set(results(found).values()) == {"good"}
    assert found["weighted"].evidence == "36 requests: 9 / 9 / 18 (by weight)"
    assert found["ip_hash"].evidence == "36 requests: 36 / 0 / 0 (one client, one instance)"
    lab.lookup = None
    assert set(results(found_by(balancing.check, of([], lab))).values()) == {"good"}


def test_one_that_does_not(lab: Sample) -> None:
    lab.answers = lambda upstream, number: (200, "", lab.instances[0].name)
    found = found_by(balancing.check, of([], lab))
    wrong = {check for check, it in found.items() if it.result == "bad"}
    assert wrong == {"round_robin", "least_connections", "weighted", "random"}
    assert found["random"].evidence == "36 requests: 36 / 0 / 0 (any): that it is not"


def test_requests_that_fail(lab: Sample) -> None:
    lab.answers = lambda upstream, number: (0, "ClientError", "") if number % 4 == 0 else lab.turns(upstream, number)
    found = found_by(balancing.check, of([], lab))
    assert set(results(found).values()) == {"bad"}
    assert found["round_robin"].evidence == "9 of 36 requests failed: {'ClientError': 9}"
    assert found["dead instance"].evidence == "9 of 36 requests failed: ClientError"


def test_instances_that_are_not_known(lab: Sample) -> None:
    lab.unknown = True
    found = found_by(balancing.check, of([], lab))
    assert found["random"].evidence == "it did not come to know all instances"


def test_who_is_in_the_rotation() -> None:
    ejected = {**ENDPOINT, "ejected": True}
    cases: tuple[tuple[Any, str, str], ...] = (
        ([], "none", "has no endpoint"),
        ([ENDPOINT, ejected], "good", "1 of 2 endpoints in use"),
        ([ejected], "bad", "every endpoint has failed: ejected"),
        ([{**ejected, "last_error": {"text": "refused"}}], "bad", "every endpoint has failed: refused"),
    )
    for endpoints, result, says in cases:
        found = found_by(balancing.check, of([upstreams({"name": "tasks", "endpoints": endpoints})]))
        assert found["rotation"].result == result
        assert found["rotation"].evidence.endswith(says)
        assert found["own sidecar"].result == "none"


# -- circuit breakers --------------------------------------------------------------------------------------------------

OPEN, CLOSED = {"state": "open"}, {"state": "closed"}


def breaking(lab: Sample, *states: Any, refused: Any = (503, "circuit_open", ""), well: Any = (200, "", "a")) -> Sample:
    """``states`` are told one after the other; ``refused`` is answered while it is open, ``well`` afterwards."""
    lab.breaker = list(states)
    lab.answers = lambda upstream, number: (500, "", "") if number < THRESHOLD else refused if number < 8 else well
    return lab


def test_a_breaker_opens_and_closes() -> None:
    lab = breaking(Sample(), OPEN, CLOSED)
    found = found_by(breakers.check, of([], lab))
    assert results(found) == {"opens": "good", "keeps away": "good", "closes": "good"}
    assert not any(it.failing for it in lab.instances)


def test_one_that_does_not_open() -> None:
    found = found_by(breakers.check, of([], breaking(Sample(), CLOSED)))
    assert results(found) == {"opens": "bad"}
    assert found["opens"].evidence == "after 3 failures (answered [500, 500, 500]) it is closed"


def test_one_that_lets_requests_through() -> None:
    found = found_by(breakers.check, of([], breaking(Sample(), OPEN, refused=(500, "", ""))))
    assert results(found) == {"opens": "good", "keeps away": "bad"}


def test_one_that_does_not_close() -> None:
    found = found_by(breakers.check, of([], breaking(Sample(), OPEN, well=(503, "circuit_open", ""))))
    assert found["closes"].evidence == "it is open although the instances are well again"


def test_a_sidecar_that_is_gone_meanwhile_or_has_no_breaker() -> None:
    lab = breaking(Sample(), PeerError("connection refused"))
    found = found_by(breakers.check, of([], lab))
    assert results(found) == {"own sidecar": "bad"}
    assert not any(it.failing for it in lab.instances)
    found = found_by(breakers.check, of([], breaking(Sample(), "?")))
    assert found["closes"].evidence.startswith("it is switched off")


@pytest.mark.parametrize(
    ("breaker", "result", "says"),
    [({"state": "half_open"}, "good", "tasks is half-open"),
     ({"state": "open", "held": {"by": "ops", "reason": "a move"}}, "bad", "tasks is held open by ops: a move"),
     ({"state": "open", "forced": "open"}, "bad", "tasks is held open by somebody"),
     ({"state": "open", "open_seconds": 3, "failures": 5}, "bad", "tasks is open for 3 s, 5 failures in a row")],
)  # fmt: skip
def test_breakers_of_the_mesh(breaker: dict[str, Any], result: str, says: str) -> None:
    found = found_by(breakers.check, of([upstreams({"name": "tasks", "breaker": breaker})]))
    assert (found["breaker"].result, found["breaker"].evidence) == (result, f"10.0.0.1:15000: {says}")


def test_breakers_of_routes() -> None:
    peer = upstreams({"name": "tasks", "breaker": 7, "route_breakers": [{**CLOSED, "path": "/a"}]}, {"name": "db"})
    found = found_by(breakers.check, of([peer]))
    assert found["breaker"].evidence == "10.0.0.1:15000: tasks /a is closed"


# -- performance -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "WINDOW", 0.005)
    monkeypatch.setattr(performance, "MOST", 0.02)
    monkeypatch.setattr(performance, "DISCOVERY", 1.0)
    monkeypatch.setattr(performance, "SELECTIONS", 1.0)


def measured(lab: Sample, run: Run, answer: bytes | None = None, **section: Any) -> dict[str, Finding]:
    """With a server where the lab's sidecar would be: an instance, or one that answers that."""
    told = Section("performance", **section)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer or b"")
        writer.close()

    async def asked() -> None:
        instance = Instance("a", 1)
        await instance.listen()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            lab.at = server.sockets[0].getsockname()[1] if answer is not None else instance.port
            await performance.check(run, told)
        await instance.shut()

    asyncio.run(asked())
    run_figures.update(told.figures)
    return {it.check: it for it in told.findings}


@pytest.mark.usefixtures("_quick")
def test_a_quick_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Sample()
    mesh = Told({"/mesh": (200, {"services": [1, 2]})})
    monkeypatch.setattr(performance, "MOST", 5.0)
    found = measured(lab, of([Told({"/mesh": (404, {})}), mesh], lab))
    assert results(found) == {"discovery": "good", "selections": "good", "topology": "good"}
    assert found["topology"].evidence == "10.0.0.1:15000: a mesh of 2 services in 1 ms (at most 500 ms)"
    assert run_figures["discovery_calls_per_second"] > 1
    assert run_figures["load_balancer_selections_per_second"] > 1
    assert run_figures["topology_generation_seconds"] == 0.001


@pytest.mark.usefixtures("_quick")
def test_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISCOVERY", "SELECTIONS"):
        monkeypatch.setattr(performance, name, 1e12)
    monkeypatch.setattr(performance, "TOPOLOGY", 1e-6)
    lab = Sample()
    run = of([Told({"/mesh": (200, {"services": None})})], lab)
    assert set(results(measured(lab, run)).values()) == {"bad"}
    assert set(results(measured(lab, run, lenient=True)).values()) == {"warn"}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
     b"HTTP/1.1 503 No\r\na: b\r\ncontent-length: 2\r\n\r\nno", b"a" * 200_000],
)  # fmt: skip
def test_answers_that_do_not_count(answer: bytes) -> None:
    lab = Sample()
    lab.lookup = None
    found = measured(lab, of([], lab), answer)
    assert results(found) == {"discovery": "none", "selections": "bad", "topology": "none"}
    assert found["selections"].evidence.startswith("0 picks per second")


@pytest.mark.usefixtures("_quick")
def test_a_registry_that_is_gone_meanwhile() -> None:
    lab = Sample()
    assert lab.lookup is not None
    lab.lookup.away = True
    found = measured(lab, of([], lab, lookup=cast(Lookup, lab.lookup)))
    assert (found["discovery"].result, found["topology"].result) == ("bad", "bad")


@pytest.mark.parametrize(
    ("page", "says"),
    [(None, "connection refused"), ((401, {"error": "token_needed"}), "/mesh answers 401"),
     ((200, b"no"), "/mesh answers 200: what answers is not")],
)  # fmt: skip
def test_a_topology_that_cannot_be_had(page: Any, says: str) -> None:
    books = Books(a={"a-1", "a-2"}, b=set())
    run = of([Told({"/mesh": page} if page else {})], lookup=cast(Lookup, books))
    told = Section("performance")

    async def asked() -> None:
        await performance.check(run, told)

    asyncio.run(asked())
    first, last = [it for it in told.findings if it.check == "topology"]
    assert says in first.evidence
    assert last.evidence.startswith("2 services, 2 instances, from the registry in ")


# -- dashboard ---------------------------------------------------------------------------------------------------------

HTML = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}
PAGE = b"""<title>a</title><link rel="stylesheet" href="/a.css"><link rel=author href=/no>
<script src="b.js?v=1"></script>
<script>inline</script><img src="data:image/png;base64,AA"><link rel=icon>"""
EVENTS = {"Content-Type": "text/event-stream"}
PAGES: dict[str, tuple[Any, ...]] = {
    "/": (200, PAGE, HTML), "/a.css": (200, b"a"), "/b.js?v=1": (200, b"b"),
    "/openapi.json": (200, {"paths": {"/events": {}, "/ready": {}}}), "/events": (200, b"data", EVENTS),
}  # fmt: skip


def paged(**changes: Any) -> dict[str, Finding]:
    """``changes`` by path, ``page`` for /."""
    names = {"page": "/", "openapi": "/openapi.json", "events": "/events"}
    return found_by(dashboard.check, of([Told({**PAGES, **{names[name]: it for name, it in changes.items()}})]))


def test_a_page_as_it_should_be() -> None:
    found = paged()
    assert results(found) == {"page": "good", "files": "good", "openapi": "good", "events": "good"}
    assert found["files"].detail == "/a.css, b.js?v=1"
    assert "files" not in paged(page=(200, b"<title></title>", HTML))


def test_pages_that_are_not() -> None:
    assert "answers 404 with nothing" in paged(page=(404, b""))["page"].evidence
    assert "answers 200 with text/html" in paged(page=(200, b"hello", HTML))["page"].evidence
    assert "has no Content-Security-Policy" in paged(page=(200, PAGE, {"Content-Type": "text/html"}))["page"].evidence
    assert results(found_by(dashboard.check, of([Told({})]))) == {"page": "bad"}


def test_files_of_a_hostile_page() -> None:
    page = b'<title></title><script src="//evil/x"></script><script src="http://[x"></script><img src=/gone>'
    peer = Told({**PAGES, "/": (200, page, HTML), "/gone": (500, b"")})
    found = found_by(dashboard.check, of([peer]))
    assert found["files"].evidence == (
        "10.0.0.1:15000: //evil/x is another host's; http://[x is no URL; /gone answers 500"
    )


def test_descriptions_and_events() -> None:
    assert results(paged(openapi=(500, {})))["openapi"] == "bad"
    assert results(paged(openapi=(200, {"paths": 7})))["openapi"] == "bad"
    assert "events" not in paged(openapi=(200, {"paths": {}}))
    assert "wants the admin token" in paged(events=(401, b""))["events"].evidence
    assert "answers 200 with nothing" in paged(events=(200, b"data"))["events"].evidence
