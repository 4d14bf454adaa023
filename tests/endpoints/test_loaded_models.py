"""Which instance is asked for an answer of a model, and how it is known what they have loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from sidecar.agent import balancing
from sidecar.agent.clusters import RunningUpstream
from sidecar.config.llm import LlmSettings
from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.loaded_first import MOST, LoadedFirst
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.loaded_models import FORGET, INTERVAL, LoadedModels, models_of
from sidecar.endpoints.names import Names
from support.configs import config_of, problem_of
from support.live import ANY_PORT, Live, run
from support.models import Models
from support.names import FakeResolver
from support.ports import upstream_of
from support.processes import free_port


def instances(*tags: Sequence[str]) -> list[Instance]:
    return [Instance(host="10.0.0.1", port=n + 1, tags=tuple(it)) for n, it in enumerate(tags)]


def cluster(balancer: LoadedFirst, *tags: Sequence[str]) -> tuple[Endpoint, ...]:
    it = Cluster("up", balancer, lambda: 0.0, Random(1))
    it.update(instances(*tags))
    return it.endpoints


def test_one_that_has_the_model_up_to_its_share() -> None:
    balancer = LoadedFirst(Random(1), 4, by_tags=False)
    one, two = endpoints = cluster(balancer, (), ())
    two.models = frozenset({"m"})
    for _ in range(2):
        assert balancer.pick(endpoints, "m") is two
        two.begin()
    assert balancer.pick(endpoints, "m") is one, "its share is used up: load it there, too"
    one.active = two.active = 2
    assert balancer.pick(endpoints, "m") is two, "there is no room anywhere"
    assert balancer.known(two) == {"models": ["m"]}


def test_what_was_sent_a_moment_ago_is_being_loaded() -> None:
    balancer = LoadedFirst(Random(1), 8, by_tags=False)
    endpoints = cluster(balancer, (), (), ())
    picked = balancer.pick(endpoints, "m")
    picked.active = 1
    assert [balancer.pick(endpoints, "m") for _ in range(3)] == [picked] * 3
    assert balancer.pick(endpoints, "other") is not picked
    assert balancer.pick(endpoints, "") is not picked
    rest = tuple(it for it in endpoints if it is not picked)
    balancer.update(rest)
    assert balancer.pick(rest, "m") in rest
    for n in range(MOST + 10):
        balancer.pick(rest, f"m{n}")
    assert len(balancer._last) == MOST


def test_those_with_the_tag_and_no_other() -> None:
    balancer = LoadedFirst(Random(1), 4, by_tags=True)
    one, two, three = endpoints = cluster(balancer, ["gpu", "m"], ["m"], ["n"])
    assert {balancer.pick(endpoints, "m") for _ in range(4)} == {one, two}
    one.active = 9
    assert {balancer.pick(endpoints, "m") for _ in range(4)} == {two}
    assert balancer.pick((three,), "m") is two, "after a try there, too: the other one cannot do it"
    assert {balancer.pick(endpoints, "unknown") for _ in range(4)} == {two, three}
    assert balancer.known(one) == {}


def test_names_as_requests_have_them() -> None:
    said = {"models": [{"model": "a:latest"}, {"name": "b:7b"}, {"model": "x" * 129}, {"model": 1}, "c", {}]}
    assert models_of(said) == frozenset({"a:latest", "a", "b:7b"})
    assert models_of({"models": []}) == frozenset()
    assert models_of({"models": "a"}) is None
    assert models_of({}) is None


def test_instances_are_asked_again_and_again() -> None:
    balancer = LoadedFirst(Random(1), 4, by_tags=False)
    it = Cluster("up", balancer, lambda: 0.0, Random(1))
    it.update(instances((), (), ()))
    one, two, three = it.endpoints
    rounds: list[frozenset[str]] = []
    over = asyncio.Event()

    async def ask(endpoint: Endpoint) -> dict[str, Any]:
        if endpoint is two:
            raise ConnectionRefusedError
        if endpoint is three:
            raise RuntimeError("a mistake of ours")
        if len(rounds) >= 2:
            raise TimeoutError
        return {"models": [{"model": f"m{len(rounds)}"}]}

    async def sleep(seconds: float) -> None:
        assert seconds == INTERVAL
        rounds.append(one.models)
        if len(rounds) == 2 + FORGET:
            over.set()
            await asyncio.Event().wait()

    async def main() -> None:
        models = LoadedModels(it, ask, sleep)
        models.start()
        await over.wait()
        one.models = frozenset({"m"})
        models.stop()

    asyncio.run(main())
    known = frozenset({"m1"})
    assert rounds == [frozenset({"m0"}), *[known] * FORGET, frozenset()]
    assert one.models == two.models == three.models == frozenset()


def test_how_they_are_asked() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()) == b"GET /api/ps HTTP/1.1\r\n"
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"models":[{"name":"llama3.2:latest"}]}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        it = Cluster("up", LoadedFirst(Random(1), 4, by_tags=False), lambda: 0.0, Random(1))
        port = server.sockets[0].getsockname()[1]
        it.update([Instance(host="127.0.0.1", port=port), Instance(host="127.0.0.1", port=free_port())])
        await LoadedModels(it).look()
        assert [sorted(endpoint.models) for endpoint in it.endpoints] == [["llama3.2", "llama3.2:latest"], []]
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_port_asks_the_one_that_has_it(fails: bool) -> None:
    it = Models(endpoints=3, slots=9, loaded="ollama")
    endpoints = it.listener.cluster.endpoints
    endpoints[2].models = endpoints[1].models = frozenset({"llama3.2"})
    endpoints[1].active = 1
    client = it.prompts()
    assert [endpoint.active for endpoint in endpoints] == [0, 1, 1]
    if fails:
        server = it.upstream()
        server.hears()
        server.breaks()
        it.advance(30.0)
        assert [endpoint.active for endpoint in endpoints] == [0, 2, 0], "the other one that has it"
    assert it.answered(client).status == 200
    assert it.answered(it.asks("GET /api/tags")).status == 200
    endpoints[1].end()
    it.over()


def test_what_it_goes_by_may_change() -> None:
    def port(**llm: Any) -> Any:
        return upstream_of(name="up", bind=None, llm=LlmSettings(**llm) if llm else None)

    plain, ollama, tags = port(), port(loaded="ollama"), port(loaded="tags")
    assert not balancing.differs(plain, port(slots=9))
    assert balancing.differs(plain, ollama)
    assert balancing.differs(ollama, tags)
    assert balancing.differs(ollama, port(loaded="ollama", slots=9))
    assert [balancing.asks_models(it) for it in (plain, ollama, tags)] == [False, True, False]


def test_other_balancers_are_refused() -> None:
    begin = "service: {name: tasks}\nupstreams:\n  ollama:\n    bind: 127.0.0.1:9\n    endpoints: [127.0.0.1:8]\n"
    llm = "    llm: {loaded: ollama}\n"
    assert config_of(begin + llm + "    balancer: least_connections\n").upstreams["ollama"].policies["llm"].loaded
    assert problem_of(begin + llm + "    balancer: weighted\n").path == "upstreams.ollama.balancer"
    route = "    routes: [{match: {path: /a}, llm: {loaded: tags}}]\n"
    assert problem_of(begin + route).path == "upstreams.ollama.routes[0].llm.loaded"


def test_a_running_upstream_asks_while_it_is_to() -> None:
    async def main() -> None:
        config = upstream_of(name="up", bind=ANY_PORT, endpoints=(), llm=LlmSettings(loaded="ollama"))
        async with Live(config) as live:
            running = RunningUpstream(config, live.listener, Names(FakeResolver(), 1.0, 60.0))
            running.follow(None)
            assert isinstance(running.balancer, LoadedFirst)
            running.ask_models(True)
            names = [task.get_name() for task in asyncio.all_tasks()]
            assert names.count("loaded models of up") == 1
            running.leave()
            await asyncio.sleep(0)
            assert "loaded models of up" not in [it.get_name() for it in asyncio.all_tasks() if not it.done()]

    run(main)
