"""Every endpoint, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar import __version__
from sidecar.admin.auth import Access
from sidecar.admin.connection import Connection
from sidecar.admin.connection_limit import Door
from sidecar.admin.server import MAX_BODY, Application, serve
from sidecar.config.agent import Admin, Consul
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.schema import Config
from sidecar.config.show import effective
from sidecar.core.address import Address
from sidecar.core.build import amqp_scanner, build, scanner
from sidecar.core.health import Health
from sidecar.core.operations import Call, Operation, Stream
from sidecar.core.secret import Secret
from support.admin import Asking, Client, Served, serving
from support.patience import until
from support.running import FakeRunning, FakeUpstream, running

pytestmark = pytest.mark.asyncio


def config_with(of: FakeRunning, admin: Admin) -> Config:
    return replace(of.config, admin=admin)


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_the_start_page_is_json_or_html(admin: Asking) -> None:
    client = await admin(running())
    listed = (await client.get("/")).json
    assert (listed["service"], listed["phase"], listed["version"]) == ("tasks", "ready", __version__)
    assert listed["build"] == build()
    assert (listed["scanner"], listed["amqp_scanner"]) == (scanner(), amqp_scanner())
    assert "POST /upstreams/{name}/breaker/{mode}" in listed["endpoints"]
    page = await client.get("/", Accept="text/html,application/xhtml+xml;q=0.9")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    text = page.body.decode()
    assert '<a href="/metrics">' in text
    assert '<a href="/upstreams/{name}">' not in text


async def test_names_on_the_page_are_text(admin: Asking) -> None:
    it = running()
    it.config = replace(it.config, service=replace(it.config.service, id="<script>alert(1)</script>"))
    client = await admin(it)
    text = (await client.get("/", Accept="text/html")).body.decode()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("phase", "expected"), [("starting", 503), ("ready", 200), ("draining", 503), ("stopped", 503)]
)
async def test_ready(phase: str, expected: int, admin: Asking) -> None:
    client = await admin(running(phase=phase))
    reply = await client.get("/ready")
    assert (reply.status, reply.json) == (expected, {"ready": phase == "ready", "phase": phase})


@pytest.mark.parametrize(("app", "expected"), [("healthy", 200), ("warning", 200), ("unhealthy", 503)])
async def test_health(app: str, expected: int, admin: Asking) -> None:
    client = await admin(running("ollama", app=Health(app, "said")))
    for path in ("/health", "/health/tasks"):
        reply = await client.get(path)
        assert (reply.status, reply.json["status"]) == (expected, app)


async def test_health_of_an_upstream(admin: Asking) -> None:
    it = running("ollama", "redis")
    it.upstreams["redis"].endpoints = []
    client = await admin(it)
    ollama, redis = await client.get("/health/ollama"), await client.get("/health/redis")
    assert (ollama.status, ollama.json["status"], ollama.json["service"]) == (200, "healthy", "ollama")
    assert (redis.status, redis.json["status"]) == (503, "unhealthy")
    assert (await client.get("/health")).json["status"] == "warning"
    for path in ("/health/nobody", "/health/deep/nobody", "/upstreams/nobody"):
        reply = await client.get(path)
        assert reply.error == (404, "not_found")
        assert reply.json["message"] == "no such upstream: 'nobody'; there are: ollama, redis"


async def test_deep_health_asks_now(admin: Asking) -> None:
    it = running("ollama", "redis", app=Health("unhealthy", "old"))
    it.deep = {"tasks": Health("healthy", "new"), "redis": Health("unhealthy", "refused")}
    client = await admin(it)
    whole, redis = await client.get("/health/deep/tasks"), await client.get("/health/deep/redis")
    assert whole.status == 200
    assert whole.json == {
        "status": "warning",
        "service": "tasks",
        "app": {"status": "healthy", "output": "new"},
        "dependencies": {
            "ollama": {"status": "healthy", "output": "asked"},
            "redis": {"status": "unhealthy", "output": "refused"},
        },
    }
    assert redis.status == 503
    assert redis.json == {"service": "redis", "status": "unhealthy", "output": "refused"}
    it.deep["tasks"] = Health("unhealthy", "now it is")
    assert (await client.get("/health/deep/tasks")).status == 503


async def test_a_deep_check_that_fails_is_a_result(admin: Asking) -> None:
    it = running("ollama")
    it.deep = {"ollama": RuntimeError("secret detail")}
    client = await admin(it)
    reply = await client.get("/health/deep/ollama")
    assert (reply.status, reply.json["status"]) == (503, "unhealthy")
    assert b"secret" not in reply.body
    assert (await client.get("/health/deep/tasks")).json["status"] == "warning"


class CountingDoor(Door):
    """Counts requests. When a request has been counted, its handler has run up to its first real wait."""

    requests = 0

    def spoke(self, handler: Connection) -> None:
        super().spoke(handler)
        self.requests += 1


async def test_whoever_asks_at_the_same_time_shares_one_deep_check() -> None:
    it = running("ollama")
    go = asyncio.Event()

    async def probe(upstream: str) -> Health:
        it.checked.append(upstream)
        await go.wait()
        return Health("healthy", "slow")

    it.probe = probe  # type: ignore[method-assign]
    door = CountingDoor()
    async with asyncio.timeout(180), serving(it, door) as client:
        first, second = (asyncio.ensure_future(client.get("/health/deep/ollama")) for _ in range(2))
        await until(lambda: door.requests == 2)
        first.cancel()  # one who leaves takes nothing from the others
        go.set()
        assert (await second).json["output"] == "slow"
        assert it.checked == ["ollama"]
        await client.get("/health/deep/ollama")
        assert it.checked == ["ollama", "ollama"]


async def test_a_deep_check_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch, admin: Asking) -> None:
    monkeypatch.setattr("sidecar.admin.operations.DEEP_SECONDS", 0.01)
    it = running("ollama")

    async def probe(upstream: str) -> Health:
        await asyncio.Event().wait()
        raise AssertionError

    it.probe = probe  # type: ignore[method-assign]
    client = await admin(it)
    reply = await client.get("/health/deep/ollama")
    assert (reply.status, reply.json["output"]) == (503, "no result within 0.01 s")


async def test_metrics_in_both_formats(admin: Asking) -> None:
    client = await admin(running("ollama"))
    text = await client.get("/metrics")
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert any(family.name == "sidecar_endpoints" for family in parse_text(text.body.decode()))
    strict = await client.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert strict.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(parse_openmetrics(strict.body.decode()))  # type: ignore[no-untyped-call]


async def test_the_configuration_is_read_freshly_and_without_secrets(admin: Asking) -> None:
    it = running()
    it.config = replace(it.config, consul=Consul(token=Secret("hush"), datacenter="dc1"))
    client = await admin(it)
    reply = await client.get("/config")
    assert b"hush" not in reply.body
    assert reply.json == orjson.loads(orjson.dumps(effective(it.config)))
    it.config = replace(it.config, consul=Consul(datacenter="dc2"))
    assert (await client.get("/config")).json["consul"]["datacenter"] == "dc2"


async def test_upstreams(admin: Asking) -> None:
    client = await admin(running("ollama", "redis"))
    listed = (await client.get("/upstreams")).json["upstreams"]
    assert [upstream["name"] for upstream in listed] == ["ollama", "redis"]
    assert (await client.get("/upstreams/redis")).json == listed[1]


# -- changing ----------------------------------------------------------------------------------------------------------


async def test_an_operator_holds_a_breaker(admin: Asking) -> None:
    it = running("ollama")
    client = await admin(it)
    for mode, state, forced in (
        ("open", "open", "open"),
        ("close", "closed", "closed"),
        ("auto", "closed", "auto"),
    ):
        reply = await client.post(f"/upstreams/ollama/breaker/{mode}")
        assert reply.status == 200
        assert (reply.json["breaker"]["state"], reply.json["breaker"]["forced"]) == (state, forced)
        assert it.upstreams["ollama"].breakers[0].forced == forced


async def test_a_breaker_that_is_not_there(admin: Asking) -> None:
    it = running("ollama")
    it.upstreams["redis"] = FakeUpstream("redis", circuit_breaker=None)
    client = await admin(it)
    assert (await client.post("/upstreams/redis/breaker/open")).error == (409, "no_breaker")
    assert (await client.post("/upstreams/nobody/breaker/open")).error == (404, "not_found")
    assert (await client.post("/upstreams/ollama/breaker/explode")).error == (404, "not_found")


async def test_reload(admin: Asking) -> None:
    it = running(changes=["upstreams.ollama: changed"])
    client = await admin(it)
    reply = await client.post("/reload")
    assert (reply.status, reply.json) == (200, {"changes": ["upstreams.ollama: changed"]})


async def test_a_file_that_cannot_be_used(admin: Asking) -> None:
    error = ConfigError("s.yaml", [Problem("drain.timeot", "unknown key", nearest="timeout", line=3)])
    it = running(changes=error)
    client = await admin(it)
    reply = await client.post("/reload")
    assert reply.error == (422, "config")
    assert reply.json["message"] == str(error)
    assert reply.json["problems"] == [{"path": "drain.timeot", "message": "unknown key"}]


async def test_drain(admin: Asking) -> None:
    client = await admin(running())
    reply = await client.post("/drain")
    assert (reply.status, reply.json) == (202, {"phase": "draining"})
    assert (await client.get("/ready")).status == 503


async def test_a_drain_that_is_waited_for(admin: Asking) -> None:
    it = running()
    client = await admin(it)
    asked = asyncio.create_task(client.post("/drain?wait=1"))
    await until(lambda: it.phase == "draining")
    assert (await client.get("/ready")).status == 503
    assert not asked.done()
    it.apps_turn.inbound_drained.set()
    reply = await asked
    assert (reply.status, reply.json) == (200, {"phase": "draining"})


@pytest.mark.parametrize("query", ["wait=perhaps", "wiat=1", "wait="])
async def test_a_slip_is_no_drain(query: str, admin: Asking) -> None:
    client = await admin(running())
    assert (await client.post(f"/drain?{query}")).error == (400, "bad_request")
    assert (await client.get("/ready")).status == 200


@pytest.mark.parametrize("body", [b'{"level": "debug"}', b"debug", b" DEBUG\n", b'"debug"'])
async def test_the_log_level(body: bytes, admin: Asking) -> None:
    client = await admin(running())
    reply = await client.ask("PUT", "/log-level", body, Content_Type="text/plain; charset=nonsense")
    assert (reply.status, reply.json) == (200, {"level": "debug"})
    assert client.levels.level == "debug"


@pytest.mark.parametrize("body", [b"", b"loud", b'{"level": 1}', b'{"levle": "debug"}', b"[]", b"\xff\xfe", b"{"])
async def test_what_is_no_log_level(body: bytes, admin: Asking) -> None:
    client = await admin(running())
    assert (await client.ask("PUT", "/log-level", body)).error == (400, "bad_level")
    assert client.levels.level == "info"


# -- refusing ----------------------------------------------------------------------------------------------------------


async def test_errors_have_one_shape(admin: Asking) -> None:
    client = await admin(running())
    assert (await client.get("/nothing")).error == (404, "not_found")
    wrong = await client.get("/drain")
    assert wrong.error == (405, "method_not_allowed")
    assert wrong.headers["Allow"] == "POST"
    large = b"x" * (MAX_BODY + 1)
    assert (await client.ask("PUT", "/log-level", large)).error == (413, "too_large")
    assert (await client.ask("POST", "/reload", large)).error == (413, "too_large")


async def test_a_large_body_that_does_not_say_so(admin: Asking) -> None:
    client = await admin(running())
    reader, writer = await asyncio.open_connection(*client.address)
    writer.write(b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch, admin: Asking) -> None:
    monkeypatch.setattr("sidecar.admin.server.BODY_SECONDS", 0.02)
    client = await admin(running())
    reader, writer = await asyncio.open_connection(*client.address)
    writer.write(b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nde")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_what_fails_inside_stays_inside(caplog: pytest.LogCaptureFixture, admin: Asking) -> None:
    it = running(changes=RuntimeError("secret detail"))
    client = await admin(it)
    reply = await client.post("/reload")
    assert reply.error == (500, "internal")
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert "secret detail" in caplog.text


async def test_the_token_over_http(admin: Asking) -> None:
    it = running()
    it.config = config_with(it, Admin(bind=Address("127.0.0.1", 0), token=Secret("t0")))
    client = await admin(it)
    refused = await client.post("/drain")
    assert refused.error == (401, "token_needed")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="sidecar"'
    assert it.phase == "ready"
    assert (await client.post("/drain", Authorization="Bearer t0")).status == 202


async def raw(client: Client, method: str, target: str, fields: str = "") -> int:
    """The status that a request line, exactly as it is, is answered with."""
    reader, writer = await asyncio.open_connection(*client.address)
    try:
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n{fields}\r\n".encode("latin-1")
        )
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def test_no_spelling_of_a_path_gets_by_without_the_token(admin: Asking) -> None:
    it = running()
    client = await admin(it)
    it.config = config_with(it, Admin(bind=Address("0.0.0.0", 0), token=Secret("t0")))
    assert await raw(client, "GET", "/health") == 200
    for path in ("/config", "/%63onfig", "/config?a=b", "/config#a", "http://sidecar/config", "//config",
                 "/./config", "/config/", "/x/../config", "/config%00", "/amqp/a/dead-letters",
                 "/%61mqp/a/%64ead-letters",
                 "/amqp/a/dead%2Dletters/export", "/amqp/a%2Fdead-letters/1", "/amqp/./dead-letters"):  # fmt: skip
        for method in ("GET", "HEAD"):
            assert await raw(client, method, path) in (401, 404), path
    assert await raw(client, "GET", "/config", "X-Sidecar-Token: t0\r\n") == 200
    for path in ("/drain", "/%64rain", "http://sidecar/drain", "/reload"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "ODD", "post"):
            assert await raw(client, method, path) in (400, 401), (method, path)
    for fields in ("X-Sidecar-Token: t\r\n", "X-Sidecar-Token: t00\r\n", "X-Sidecar-Token: \xff\r\n",
                   "Authorization: t0\r\n", "Authorization: Basic t0\r\n", "Authorization: Bearer\r\n",
                   "X-Sidecar-Token: a\r\nX-Sidecar-Token: t0\r\n"):  # fmt: skip
        assert await raw(client, "POST", "/drain", fields) == 401, fields
    assert it.phase == "ready"


async def test_heads_have_bounds(admin: Asking) -> None:
    client = await admin(running())
    for method, target, fields in (
        ("GET", "/" + "a" * 20_000, ""),
        ("GET", "/health", f"x: {'a' * 20_000}\r\n"),
        ("G" * 20_000, "/health", ""),
    ):
        assert await raw(client, method, target, fields) == 431


async def test_what_is_refused_is_told_in_the_log_without_the_token_that_was_tried(
    caplog: pytest.LogCaptureFixture, admin: Asking
) -> None:
    it = running()
    it.config = config_with(it, Admin(bind=Address("127.0.0.1", 0), token=Secret("t0")))
    client = await admin(it)
    for n in range(50):
        assert (await client.post("/drain", X_Sidecar_Token=f"guess-{n}")).status == 401
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 10 <= len(told) <= 12
    assert all(record.getMessage() == "refused: token_needed" for record in told)
    assert all("guess" not in str(record.__dict__) for record in caplog.records)
    assert told[0].__dict__["method"] == "POST"


async def test_pages_and_names_of_others_over_http(admin: Asking) -> None:
    it = running()
    client = await admin(it)
    assert (await client.get("/upstreams", Host="evil.example")).error == (421, "wrong_host")
    assert (await client.post("/drain", Origin="http://evil.example")).error == (403, "wrong_origin")
    assert it.phase == "ready"
    host, port = client.address
    assert (await client.post("/drain", Origin=f"http://{host}:{port}")).status == 202


async def test_http_1_0_without_a_host(admin: Asking) -> None:
    client = await admin(running())
    reader, writer = await asyncio.open_connection(*client.address)
    writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
    assert b" 200 " in await reader.readline()
    writer.close()


async def test_what_is_not_http_fills_no_log(caplog: pytest.LogCaptureFixture, admin: Asking) -> None:
    client = await admin(running())
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*client.address)
        writer.write(junk)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert (await client.get("/ready")).status == 200
    assert not caplog.records


async def test_every_answer_has_the_headers_that_keep_it_where_it_belongs(admin: Asking) -> None:
    client = await admin(running())
    for reply in (await client.get("/health"), await client.get("/nothing"), await client.ask("HEAD", "/metrics")):
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert reply.headers["Server"] == "sidecar"
    page = await client.get("/", Accept="text/html")
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"):
        assert rule in page.headers["Content-Security-Policy"]


async def test_a_port_that_is_taken() -> None:
    async with serving(running()) as client:
        other = running()
        other.config = config_with(other, Admin(bind=Address(*client.address)))
        with pytest.raises(OSError, match="in use"):
            await Served(other).start_server()


async def test_closing_does_not_wait_for_those_who_stay() -> None:
    async with serving(running()) as client:
        _, idle = await asyncio.open_connection(*client.address)
        kept_reader, kept = await asyncio.open_connection(*client.address)
        kept.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await kept_reader.readline()
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 20
    idle.close()
    kept.close()


async def test_a_reader_that_does_not_read_is_cut_off_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    closed = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    async def endless(call: Call) -> Stream:
        return Stream(pieces(), "text/plain", closed.set, patience=0.05)

    door = Door()
    operation = Operation("GET", "/endless", "", endless, {})
    bind = Address("127.0.0.1", 0)
    server = await serve(Application([operation], lambda: Access(bind.host), door), bind, door)
    _, writer = await asyncio.open_connection(*server.address, limit=1000)
    writer.write(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await closed.wait()
    (line,) = caplog.messages
    assert line == "a stream was cut off: its client has read nothing for 0.05 s"
    writer.close()
    await server.close()
