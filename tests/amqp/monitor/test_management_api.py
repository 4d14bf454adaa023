"""What the management API tells, asked of a real one and of a bad one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp.monitor import management_api
from sidecar.amqp.monitor.connection import TroubleLog
from sidecar.amqp.monitor.management_api import ManagementApi, ManagementError, parse_bindings, parse_exchanges
from sidecar.amqp.topology.bindings import Bindings
from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.core.secret import Secret
from support.rabbitmq import RabbitMQ
from support.registries import until

PASSWORD = "s3cr3t/ü@"
GUEST = AmqpCredentials(username="guest", password=Secret("guest"))


@pytest.fixture(scope="module")
def api(rabbitmq: RabbitMQ) -> Iterator[str]:
    """The address of the broker's own."""
    with rabbitmq.management() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management_api, "INTERVAL", 0.1)


def run(what: Any) -> None:
    asyncio.run(asyncio.wait_for(what, 180))


class Troubles(TroubleLog):
    """Counts how often there was trouble, told or not."""

    def __init__(self) -> None:
        super().__init__("rabbitmq", asyncio.get_running_loop().time)
        self.count = 0

    def bad(self, source: str, kind: str, text: str) -> None:
        self.count += 1
        super().bad(source, kind, text)


def asking(
    url: str,
    topology: Bindings,
    *vhosts: str,
    credentials: AmqpCredentials = GUEST,
    troubles: TroubleLog | None = None,
) -> ManagementApi:
    return ManagementApi(url, credentials, vhosts, topology, troubles or Troubles())


async def reaches(topology: Bindings, vhost: str, *queues: str) -> None:
    """Wait until a publish leads just there."""
    await until(lambda: topology.queues(vhost, "ai.tasks", "ai.inference.now") == set(queues), "it leads there")


class Api:
    """A management API that answers with ``status`` and ``body``."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes | None = b"[]"
        self.asked: list[web.Request] = []
        self.headers: dict[str, str] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Api:
        app = web.Application()
        app.router.add_get("/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def again(self, times: int) -> None:
        """Wait until it was asked so many times more."""
        wanted = len(self.asked) + times
        await until(lambda: len(self.asked) >= wanted, "it is asked again")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.body is not None:
            return web.Response(status=self.status, body=self.body, headers=self.headers)
        endless = web.StreamResponse()
        await endless.prepare(request)
        try:
            while True:
                await endless.write(b"[" * 65536)
        except ConnectionError:
            return endless


def test_what_a_broker_tells(rabbitmq: RabbitMQ, api: str) -> None:
    async def check() -> None:
        rabbitmq.add_vhost("/agents x%y")
        for vhost in ("/", "/agents x%y"):
            with rabbitmq.channel(vhost) as channel:
                channel.exchange_declare("ai.tasks", "topic")
                channel.exchange_declare("ai.inner", "fanout")
                channel.queue_declare("inference")
                channel.queue_declare("audit")
                channel.queue_bind("inference", "ai.tasks", "ai.inference.#")
                channel.exchange_bind("ai.inner", "ai.tasks", "#", arguments={"x": 1})
                channel.queue_bind("audit", "ai.inner")
        topology = Bindings()
        vhosts = ("/", "/agents x%y")
        asker = asking(f"{api}/", topology, *vhosts)
        for vhost in vhosts:
            await reaches(topology, vhost, "inference", "audit")
            assert topology.queues(vhost, "ai.tasks", "other") == {"audit"}
        with rabbitmq.channel() as channel:
            channel.queue_unbind("inference", "ai.tasks", "ai.inference.#")
        await reaches(topology, "/", "audit")
        await asker.close()

    run(check())


def test_credentials_that_are_not_good_enough(api: str, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        bad = AmqpCredentials(username="nobody", password=Secret(PASSWORD))
        troubles = Troubles()
        asker = asking(api, Bindings(), "/", credentials=bad, troubles=troubles)
        await until(lambda: troubles.count >= 4, "it is refused again and again")
        await asker.close()

    run(check())
    assert caplog.text.count("the tag management (401)") == 1
    assert "s3cr3t" not in caplog.text


def test_trouble_and_its_end_are_told_once_and_what_is_known_stays(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with Api() as api:
            topology = Bindings()
            topology.exchange_declared("/", "e", "fanout")
            topology.bound("/", "e", "q", "", {})
            api.status = 500
            asker = asking(api.url, topology, "/")
            await until(lambda: len(api.asked) > 3, "it is asked again and again")
            assert topology.queues("/", "e", "") == {"q"}
            for body in (b"<html>", b"{}", b"[1]", b'[{"name": 1}]', b'[{"name": "x"}]', b"\xff", b"[" * 100_000):
                api.status, api.body = 200, body
                await api.again(2)
            assert topology.queues("/", "e", "") == {"q"}
            api.body = b"[]"
            await until(lambda: topology.queues("/", "e", "") == set(), "it works")
            await asker.close()
            assert not any(task.get_name().startswith("amqp") for task in asyncio.all_tasks())

    caplog.set_level(logging.INFO, "sidecar")
    run(check())
    said = [record.getMessage() for record in caplog.records if record.name.startswith("sidecar")]
    assert len(said) == 2, said
    assert "status 500; what is known stays in use" in said[0]
    assert "works again" in said[1]


def test_an_answer_that_was_known_is_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[str] = []

    class Counting(Bindings):
        __slots__ = ()

        def replace(self, vhost: str, *rest: Any, **more: Any) -> None:
            replaced.append(vhost)
            super().replace(vhost, *rest, **more)

    async def check() -> None:
        async with Api() as api:
            topology = Counting()
            asker = asking(api.url, topology, "/", "other")
            await api.again(20)
            assert sorted(replaced) == ["/", "other"]
            topology.bound("/", "amq.fanout", "q", "", {})
            await until(lambda: topology.queues("/", "amq.fanout", "") == set(), "it is put right")
            api.body = b"[{}]"
            await api.again(2)
            api.body = b"[ ]"
            await api.again(6)
            assert 4 <= len(replaced) <= 8
            await asker.close()

    run(check())


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        troubles = Troubles()
        asker = asking("http://127.0.0.1:1", Bindings(), "/", "other", troubles=troubles)
        await until(lambda: troubles.count >= 6, "both are asked about in vain, again and again")
        await asker.close()

    run(check())
    assert len(caplog.records) == 1


def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with Api() as api, Api() as other:
            api.status, api.headers = 302, {"Location": other.url}
            asker = asking(api.url, Bindings(), "/")
            await until(lambda: "302" in caplog.text, "it is told")
            await asker.close()
            assert not other.asked

    run(check())


def test_an_endless_answer_is_cut(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with Api() as api:
            api.body = None
            asker = asking(api.url, Bindings(), "/")
            await until(lambda: "longer than" in caplog.text, "it is told")
            await asker.close()

    monkeypatch.setattr(management_api, "MAX_ANSWER", 1 << 20)
    run(check())


def test_what_it_is_asked_for() -> None:
    async def check() -> None:
        async with Api() as api:
            asker = asking(api.url, Bindings(), "a/b ü%2F?")
            await until(lambda: len(api.asked) >= 2, "it is asked")
            await asker.close()
            assert api.asked[0].raw_path.startswith("/api/exchanges/a%2Fb%20%C3%BC%252F%3F?columns=")
            assert api.asked[1].raw_path.startswith("/api/bindings/a%2Fb%20%C3%BC%252F%3F?columns=")
            assert api.asked[0].headers["Authorization"].startswith("Basic ")

    run(check())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "type", "source", "destination"]), inner),
)


@given(JSON)
def test_any_json_is_parsed_or_refused(value: Any) -> None:
    import json

    for parse in (parse_exchanges, parse_bindings):
        try:
            parse(json.dumps(value).encode())
        except ManagementError:
            pass
