"""The map of the mesh: merging as a law, what hostile sidecars say, and gathering."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin.mesh import gather
from sidecar.admin.mesh.gather import AT_ONCE, Gathering
from sidecar.admin.mesh.merge import merge, quantiles
from sidecar.admin.mesh.summary import MOST_EDGES, BadSummary, Call, Flow, Summary, read
from sidecar.admin.snapshots import PeerSnapshot
from sidecar.core.stats import BUCKETS, Histogram
from support.clock import Clock

SIZE = len(BUCKETS) + 1
COUNTS = st.lists(st.integers(0, 1000), min_size=SIZE, max_size=SIZE)
FLOWS = st.none() | st.builds(Flow, st.integers(0, 1000).map(float), st.just(0.0), COUNTS)
CALLS = st.builds(Call, st.sampled_from("abc"), st.just("http"), st.sampled_from(["healthy", "unhealthy"]), st.just(""),
                  FLOWS)  # fmt: skip
SUMMARIES = st.builds(Summary, st.sampled_from("abc"), st.just(""), st.just(""), st.just("healthy"), st.just(""), FLOWS,
                      st.lists(CALLS, max_size=3))  # fmt: skip


def told(**more: Any) -> bytes:
    passed = {"seconds": 10, "requests": 100, "errors": 5, "counts": [100] + [0] * (SIZE - 1)}
    call = {"to": "tasks", "protocol": "http", "status": "healthy", "problem": "", **passed}
    return orjson.dumps({"service": "web", "id": "1", "status": "healthy", **passed, "calls": [call], **more})


@given(st.lists(SUMMARIES, max_size=8), st.randoms(use_true_random=False))
def test_order_changes_no_figure(summaries: list[Summary], random: Any) -> None:
    other = list(summaries)
    random.shuffle(other)
    one, two = merge(summaries), merge(other)
    assert one["edges"] == two["edges"]
    assert [{**it, "sidecars": 0} for it in one["services"]] == [{**it, "sidecars": 0} for it in two["services"]]
    total = sum(it.flow.rate for it in summaries if it.flow is not None)
    assert sum(it["rate"] or 0 for it in one["services"] if it["kind"] == "service") == pytest.approx(total)


@given(COUNTS)
def test_quantiles_are_those_of_a_histogram(counts: list[int]) -> None:
    histogram = Histogram()
    histogram.counts = counts
    found = quantiles(counts)
    if any(counts):
        assert found == pytest.approx(tuple(histogram.quantile(q) * 1000 for q in (0.5, 0.99)), abs=0.06)
    else:
        assert found == (None, None)


def test_an_edge_is_what_callers_measured() -> None:
    found = merge([read(told(), "h:1", "web"), read(told(id="2"), "h:2", "web")])
    (edge,) = found["edges"]
    assert (edge["from"], edge["to"], edge["rate"], edge["error_rate"]) == ("web", "tasks", 20.0, 0.05)
    web, tasks = found["services"]
    assert (web["instances"], web["rate"], web["kind"]) == (2, 20.0, "service")
    assert (tasks["instances"], tasks["rate"], tasks["kind"], tasks["status"]) == (0, 20.0, "outside", "warning")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", told(service="other"), told(status="<b>"), b"[" * 9999])
def test_what_is_no_summary(data: bytes) -> None:
    with pytest.raises(BadSummary):
        read(data, "h:1", "web")


@pytest.mark.parametrize(
    "call",
    [
        None, {}, {"to": 1}, {"to": "a", "protocol": "<b>", "status": "healthy"},
        {"to": "a", "protocol": "http", "status": []},
    ],
)  # fmt: skip
def test_calls_that_make_no_sense_are_left_out(call: Any) -> None:
    assert read(told(calls=[call]), "h:1", "web").calls == []


@pytest.mark.parametrize(
    "more",
    [
        {"seconds": 0}, {"seconds": -1}, {"seconds": True}, {"requests": -1}, {"requests": 1.5}, {"counts": [1]},
        {"counts": ["1"] * SIZE}, {"errors": 1 << 60}, {"seconds": None},
        {"seconds": 1e-300},
    ],
)  # fmt: skip
def test_figures_that_make_no_sense_are_left_out(more: dict[str, Any]) -> None:
    assert read(told(**more), "h:1", "web").flow is None


def test_a_summary_has_bounds() -> None:
    call = {"to": "x" * 1000, "protocol": "tcp", "status": "warning", "problem": "y" * 1000}
    found = read(told(calls=[call] * 1000), "h:1", "web")
    assert len(found.calls) == MOST_EDGES
    assert (len(found.calls[0].to), len(found.calls[0].problem)) == (128, 200)


def test_those_who_ask_together_share_a_gathering() -> None:
    asyncio.run(_together())


async def _together() -> None:
    clock, asked, at_once, most, looks = Clock(), [], 0, 0, 0
    peers = [PeerSnapshot(service="web", id=f"{n:02}", admin=f"h:{n}", calls=["tasks"]) for n in range(40)]

    async def get(address: str, path: str, query: str, limit: int) -> tuple[int, bytes]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        asked.append(address)
        if address == "h:0":
            raise ConnectionRefusedError(111, "Connection refused")
        return (401, b"") if address == "h:1" else (200, b"junk" if address == "h:2" else told())

    async def all_peers() -> list[PeerSnapshot]:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise TimeoutError
        return [*peers, PeerSnapshot(service="far", id="f", admin="", calls=["tasks"])]

    own = Summary("me", "", "", "healthy", "", None, [])
    gathering = Gathering(all_peers, lambda: own, get, clock)
    one, two = await asyncio.gather(gathering.map(), gathering.map())
    assert one is two
    assert await gathering.map() is one
    assert (len(asked), most) == (40, AT_ONCE)
    far, me, web = (it for it in one["services"] if it["kind"] == "service")
    assert (far["status"], me["status"], web["status"]) == ("not_answering", "healthy", "warning")
    problems = [it["problem"] for it in web["sidecars"][:3]]
    assert problems == [
        "its sidecar could not be asked: Connection refused",
        "its sidecar has another admin token",
        "what its sidecar answered is no summary",
    ]
    silent = next(it for it in one["edges"] if it["from"] == "far")
    assert (silent["silent"], silent["status"]) == (True, "unknown")
    clock.now += 2
    two = await gathering.map()
    assert two is not one
    assert (looks, two["problem"]) == (1, "")
    clock.now += 4
    three = await gathering.map()
    assert three["problem"] == "the registry cannot be asked for sidecars: TimeoutError"
    assert [it["name"] for it in three["services"]] == [it["name"] for it in one["services"]]


def test_those_who_never_answer_keep_nobody_from_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "ALL_SECONDS", 0.0)  # whoever is not among the first has no turn
    asyncio.run(_many_dead())


async def _many_dead() -> None:
    clock = Clock()
    dead = [PeerSnapshot(service=f"dead-{n:03}", id="1", admin="h:0", calls=[]) for n in range(160)]
    alive = PeerSnapshot(service="web", id="1", admin="h:1", calls=[])

    async def get(address: str, path: str, query: str, limit: int) -> tuple[int, bytes]:
        if address == "h:0":
            await asyncio.Event().wait()
        return 200, told()

    async def all_peers() -> list[PeerSnapshot]:
        return [*dead, alive]

    gathering = Gathering(all_peers, lambda: Summary("me", "", "", "healthy", "", None, []), get, clock)
    gathering._silent = {(it.service, it.id) for it in dead}
    found = await gathering.map()
    status = {it["name"]: it["status"] for it in found["services"]}
    assert status["web"] == "healthy"
    assert {status[it.service] for it in dead} == {"unknown"}, "they did not answer, or were not asked"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["healthy"], "healthy"),
        (["healthy", "warning"], "warning"),
        (["healthy", "healthy", "unhealthy"], "warning"),
        (["unhealthy", "healthy"], "warning"),
        (["healthy", "unhealthy", "unhealthy"], "unhealthy"),
        (["not_answering", "not_answering", "healthy"], "not_answering"),
    ],
)
def test_a_service_is_as_most_of_its_instances_are(statuses: list[str], status: str) -> None:
    told_by = [Summary("web", str(n), "", it, "", None, []) for n, it in enumerate(statuses)]
    for order in (told_by, told_by[::-1]):
        (service,) = merge(order)["services"]
        assert service["status"] == status


def test_without_the_registry_it_is_this_sidecar_alone() -> None:
    asyncio.run(_alone())


async def _alone() -> None:
    async def away() -> list[PeerSnapshot]:
        raise OSError("connection refused")

    async def get(address: str, path: str, query: str, limit: int) -> tuple[int, bytes]:
        raise AssertionError

    found = await Gathering(away, lambda: Summary("me", "", "", "healthy", "", None, []), get, Clock()).map()
    assert found["problem"] == "the registry cannot be asked for sidecars: connection refused"
    assert [it["name"] for it in found["services"]] == ["me"]
