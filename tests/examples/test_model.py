"""The stand-in for Ollama, and what task decomposition makes of a model that answers, and of one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from examples.ollama_stand_in import Ollama, options_of, steps
from examples.task_decomposition.model import Model, NoModel
from support.patience import until

QUICK = ["--load", "0", "--rate", "100000"]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield session, str(server.make_url("")).rstrip("/")


def test_its_answer_is_made_of_the_task() -> None:
    assert steps("Do as I say.\nTask: plan it, build it and ship it") == (
        "1. plan it (needs nothing)\n2. build it (needs 1)\n3. ship it (needs 2)"
    )


@pytest.mark.asyncio
async def test_a_model_s_answer_is_what_it_has_streamed() -> None:
    async with served(Ollama(options_of(QUICK)).app()) as (session, url):
        told = await Model(session, url, "llama3.2").steps("plan and build", "now", {})
        assert told == "1. plan (needs nothing)\n2. build (needs 1)"
        with pytest.raises(NoModel, match="status 404"):
            await Model(session, url, "unknown").steps("plan", "now", {})


@pytest.mark.asyncio
async def test_a_cold_model_is_loaded_once_and_is_cold_again_when_it_was_not_used() -> None:
    async with served(Ollama(options_of(["--load", "0.05", "--rate", "100000", "--keep-alive", "0"])).app()) as (
        s,
        url,
    ):
        loads = []
        for _ in range(2):
            async with s.post(f"{url}/api/generate", json={"model": "llama3.2", "stream": False}) as answer:
                loads.append((await answer.json())["load_duration"])
        assert min(loads) >= 50_000_000
    async with served(Ollama(options_of(["--load", "0.05", "--rate", "100000"])).app()) as (s, url):
        for _ in range(2):
            async with s.post(f"{url}/api/generate", json={"model": "llama3.2", "stream": False}) as answer:
                loads.append((await answer.json())["load_duration"])
        assert loads[3] < loads[2]
        async with s.get(f"{url}/api/ps") as answer:
            assert [it["name"] for it in (await answer.json())["models"]] == ["llama3.2"]


@pytest.mark.asyncio
async def test_who_comes_when_too_many_wait_is_refused_and_a_slot_is_free_when_its_client_leaves() -> None:
    ollama = Ollama(options_of(["--slots", "1", "--queue", "1", "--load", "0", "--rate", "0.01"]))
    async with served(ollama.app()) as (session, url):

        async def ask() -> int:
            async with session.post(f"{url}/api/generate", json={"model": "llama3.2"}) as answer:
                return answer.status

        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await until(lambda: ollama.waiting == 1)
        assert await ask() == 503
        for it in (first, second):
            it.cancel()
        await until(lambda: ollama.free == 1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: web.json_response({"mode": "simple"}), "away, busy or too slow"),
        (lambda: web.Response(status=503, headers={"x-sidecar-error": "circuit_open"}), "circuit_open"),
        (lambda: web.Response(text="<html>"), "not JSON"),
        (lambda: web.Response(text='{"response": "1. a"}\n'), "broke off"),
        (lambda: web.Response(text='{"response": "%s"}\n' % ("a" * 70_000)), "more than|not JSON|too"),
    ],
)
async def test_whatever_is_no_whole_answer_is_no_model(answer: Callable[[], web.Response], why: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.headers["x-patience"] == "queued"
        assert request.headers["traceparent"] == "a-trace"
        return answer()

    app = web.Application()
    app.router.add_post("/api/generate", handle)
    async with served(app) as (session, url):
        with pytest.raises(NoModel, match=why):
            await Model(session, url, "m").steps("x", "queued", {"traceparent": "a-trace"})


@pytest.mark.asyncio
async def test_a_port_on_which_nobody_listens_is_no_model() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(NoModel):
            await Model(session, "http://127.0.0.1:9", "m").steps("x", "now", {})
