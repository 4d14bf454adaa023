from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sidecar.core.health import Health, Unsure
from sidecar.core.instance import Instance
from sidecar.core.secret import Secret
from sidecar.endpoints import http_check
from sidecar.endpoints.active_checks import AT_ONCE, ActiveChecks, EndpointCheck, Login
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.http_check import Answered
from sidecar.resilience.breaker import HALF_OPEN, OPEN
from support.agents import RunningAgent, upstream
from support.clock import Clock
from support.processes import free_port
from support.registries import until
from support.scripted import Server

GOOD, BAD, WARNING = Health("healthy", "fine"), Health("unhealthy", "no"), Health("warning", "hm")


class Asked:
    """Checks in a time of their own: what is asked, and what the endpoints say."""

    def __init__(self, size: int, balancer: str = "round_robin", **check: Any) -> None:
        self.clock = Clock()
        self.cluster = Cluster("up", create(balancer, Random(1)), self.clock, Random(2))
        self.put(size)
        self.says: Callable[[Endpoint], Health] = lambda endpoint: GOOD
        self.asked: list[tuple[float, int]] = []
        self.at_once = self.most_at_once = 0
        self.takes = 0.0
        self.checks = ActiveChecks(
            self.cluster, EndpointCheck(**check), self.ask, self.clock, self.sleep, Random(3)
        )  # fmt: skip
        self._until = 0.0
        self._over = asyncio.Event()

    def put(self, size: int) -> None:
        self.cluster.update(Instance(host="10.0.0.1", port=n) for n in range(size))

    async def ask(self, endpoint: Endpoint) -> Health:
        self.asked.append((self.clock.now, endpoint.port))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        self.clock.advance(self.takes / AT_ONCE)  # so many pass at once
        if self.clock.now >= self._until:
            self._over.set()
        self.at_once -= 1
        return self.says(endpoint)

    async def sleep(self, seconds: float) -> None:
        if self.clock.now >= self._until:
            self._over.set()
            await asyncio.Event().wait()
        self.clock.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)

    def run(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        async def main() -> None:
            self._over = asyncio.Event()
            self._until = self.clock.now + seconds
            self.checks.start()
            await self._over.wait()
            self.checks.stop()
            then()

        asyncio.run(main())

    def states(self) -> list[str]:
        return [endpoint.state for endpoint in self.cluster.endpoints]


def test_each_is_asked_once_in_an_interval_and_not_in_step() -> None:
    it = Asked(20, interval=5.0)
    it.run(50)
    times = Counter(port for _, port in it.asked)
    assert set(times) == set(range(20))
    assert all(9 <= n <= 12 for n in times.values())
    firsts = [at - 1000.0 for at, port in it.asked[:20]]
    assert len({int(at) for at in firsts}) >= 5, "they are spread over the interval"
    gaps = [after - before for (before, port), (after, _) in zip(it.asked, it.asked[20:], strict=False) if port == 7]
    assert len({round(gap, 2) for gap in gaps}) > 1


def test_fall_and_rise() -> None:
    it = Asked(3, interval=1.0, fall=3, rise=2)
    sick = it.cluster.endpoints[1]
    results: list[tuple[str, int]] = []
    plan = iter([GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD, GOOD])

    def says(endpoint: Endpoint) -> Health:
        if endpoint is not sick:
            return GOOD
        if endpoint.checked is not None:
            results.append((endpoint.state, endpoint.checked.row))
        return next(plan, GOOD)

    it.says = says
    told: list[float] = []
    it.checks.on_recovery = lambda: told.append(it.clock.now)
    it.run(16)
    assert len(told) == 1, "when it comes back"
    found = [state for state, _ in results][:12]
    assert found == [
        "healthy", "healthy", "healthy", "healthy", "healthy", "healthy",  # two bad ones are not three
        "unhealthy", "unhealthy", "unhealthy", "unhealthy", "healthy", "healthy",
    ]  # fmt: skip
    assert it.states() == ["healthy"] * 3


def test_one_that_is_down_gets_nothing_and_with_none_left_all_or_none_are_used() -> None:
    it = Asked(2, interval=1.0, fall=1)
    it.says = lambda endpoint: BAD if endpoint.port == 0 else GOOD
    it.run(3)
    assert it.states() == ["unhealthy", "healthy"]
    assert {e.port for _ in range(20) if (e := it.cluster.pick()) is not None} == {1}
    it.says = lambda endpoint: BAD
    it.run(3)
    assert len(it.cluster.eligible) == 2
    it.cluster.configure(refuse=True)
    assert it.cluster.pick() is None
    assert [told["check"] for told in it.cluster.candidates()] == ["no", "no"]
    it.cluster.unchecked()
    assert it.cluster.eligible == it.cluster.endpoints
    assert it.states() == ["healthy", "healthy"]


@pytest.mark.parametrize(("balancer", "used"), [("round_robin", {1}), ("weighted", {0, 1})])
def test_one_that_warns_is_used_as_one_of_which_the_registry_says_so(balancer: str, used: set[int]) -> None:
    it = Asked(2, balancer, interval=1.0)
    it.says = lambda endpoint: WARNING if endpoint.port == 0 else GOOD
    it.run(3)
    assert it.states() == ["warning", "healthy"]
    assert {e.port for _ in range(20) if (e := it.cluster.pick()) is not None} == used
    it.put(2)  # the registry says healthy, the check knows better
    assert it.states() == ["warning", "healthy"]


def test_a_thousand_have_one_task_and_a_bounded_number_of_checks_at_once() -> None:
    it = Asked(1000, interval=5.0)
    it.takes = 0.5
    it.run(12)
    assert it.most_at_once == AT_ONCE
    assert len({port for _, port in it.asked}) > 600, "each waits for its turn"


def test_those_that_come_are_asked_soon_and_those_that_go_no_more() -> None:
    it = Asked(2, interval=30.0)
    it.run(31, then=lambda: it.put(3))
    began = it.clock.now
    it.checks = ActiveChecks(it.cluster, it.checks.check, it.ask, it.clock, it.sleep, Random(3))
    it.run(2)
    it.put(4)
    gone = it.cluster.endpoints[3]
    it.put(3)
    before = len(it.asked)
    it.run(100)
    assert gone.port not in {port for _, port in it.asked[before:]}
    assert began


def test_what_goes_wrong_in_a_check_is_a_result() -> None:
    it = Asked(4, interval=1.0, fall=1, timeout=0.05)
    errors: list[BaseException] = [ConnectionRefusedError(111, "x"), EOFError("cut off"), RuntimeError("a bug")]

    async def ask(endpoint: Endpoint) -> Health:
        if endpoint.port < 3:
            raise errors[endpoint.port]
        await asyncio.sleep(60)
        return GOOD

    async def main() -> None:
        checks = ActiveChecks(it.cluster, it.checks.check, ask)
        for endpoint in it.cluster.endpoints:
            await checks._check(endpoint)

    asyncio.run(main())
    outputs = [e.checked.output for e in it.cluster.endpoints if e.checked is not None]
    assert outputs == [
        "connect: connection refused: nothing listens there", "connect: cut off", "connect: RuntimeError",
        "connect: no answer within 0.05 s",
    ]  # fmt: skip
    assert it.states() == ["unhealthy"] * 4


def test_what_this_host_lacks_says_nothing() -> None:
    it = Asked(1, fall=1)

    async def ask(endpoint: Endpoint) -> Health:
        raise OSError(24, "too many open files")

    asyncio.run(ActiveChecks(it.cluster, it.checks.check, ask)._check(it.cluster.endpoints[0]))
    assert it.cluster.endpoints[0].checked is None


POSTGRES = Login("tester", "postgres", Secret(""))


def test_one_alone_is_the_right_one_and_none_until_it_has_said_so() -> None:
    it = Asked(0, interval=1.0, postgres=POSTGRES)
    it.cluster.unproven = True
    it.cluster.configure(refuse=True)
    it.put(2)
    assert it.cluster.pick() is None, "nobody has asked yet"
    told: list[str] = []
    it.checks.on_recovery, it.checks.on_fall = lambda: told.append("rise"), lambda: told.append("fall")
    primary = 0
    it.says = lambda endpoint: GOOD if endpoint.port == primary else BAD
    it.run(0.5)
    assert it.states() == ["healthy", "unhealthy"], "the first result counts"
    assert told == ["rise"]
    primary = 2
    it.run(1)
    assert it.states() == ["healthy", "unhealthy"], "one bad result is not three"
    primary = 1
    it.run(2.2)  # two good results, and less than three bad ones
    assert it.states() == ["unhealthy", "healthy"], "the other one is it, so the first bad result was enough"
    assert told == ["rise", "rise"]
    primary = 2
    it.run(4)
    assert it.states() == ["unhealthy", "unhealthy"]
    assert told == ["rise", "rise", "fall"]
    it.put(3)
    assert it.cluster.pick() is None


def test_who_cannot_find_out_leaves_an_endpoint_where_it_is() -> None:
    it = Asked(2, interval=1.0, fall=1, postgres=POSTGRES)
    out = it.cluster.endpoints[1]
    out.down = True

    async def ask(endpoint: Endpoint) -> Health:
        raise Unsure("it says: too many clients")

    async def main() -> None:
        checks = ActiveChecks(it.cluster, it.checks.check, ask)
        for endpoint in it.cluster.endpoints:
            for _ in range(3):
                await checks._check(endpoint)

    asyncio.run(main())
    assert it.states() == ["warning", "unhealthy"]
    assert {e.checked.output for e in it.cluster.endpoints if e.checked} == {"PostgreSQL: it says: too many clients"}
    assert it.cluster.pick() is it.cluster.endpoints[0]
    it.says = lambda endpoint: GOOD
    it.run(1.5)
    assert it.states() == ["healthy", "healthy"], "what it says first counts at once"


def answered(status: int, body: bytes = b"", **fields: bytes) -> Answered:
    return Answered(status, {name.replace("_", "-").encode(): value for name, value in fields.items()}, body)


CHUNKED = b'6;x=y\r\n{"stat\r\n11\r\nus": "warning"  }\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (answered(200), "healthy"),
        (answered(200, b'{"status": "healthy"}'), "healthy"),
        (answered(200, b'{"status": "Warning", "output": "x"}'), "warning"),
        (answered(200, b' {"status": "warn"}'), "warning"),
        (answered(200, b'{"status": "unhealthy"}'), "unhealthy"),
        (answered(207, b'{"status": "fail"}'), "unhealthy"),
        (answered(503, b'{"status": "warning"}'), "unhealthy"),
        (answered(200, CHUNKED, transfer_encoding=b"Chunked"), "warning"),
        (answered(200, CHUNKED), "healthy"),
        (answered(200, b'{"status": 7}'), "healthy"),
        (answered(200, b'{"status": "warning"'), "healthy"),
        (answered(200, b"[" * 60_000), "healthy"),
        (answered(200, b'{"status":' * 6_000), "healthy"),
        (answered(200, b"zz\r\n", transfer_encoding=b"chunked"), "healthy"),
        (answered(429), "warning"),
        (answered(503, x_sidecar_error=b"overloaded"), "warning"),
        (answered(503, x_sidecar_error=b"draining"), "unhealthy"),
        (answered(500), "unhealthy"),
        (answered(302), "unhealthy"),
    ],
)
def test_a_service_that_says_that_it_is_worse_is_believed(answer: Answered, status: str) -> None:
    assert http_check.by_word(answer, "GET /health").status == status


async def served(answers: list[bytes], ask: Callable[[int], Awaitable[Any]]) -> list[bytes]:
    """What a server was asked that gives these answers, each on a connection of its own."""
    heads: list[bytes] = []

    left: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.add(writer)
        heads.append(await reader.read(65536))
        writer.write(answers[min(len(heads), len(answers)) - 1])
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        left.discard(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await ask(server.sockets[0].getsockname()[1])
        await until(lambda: not left and len(heads) == 4, "all are gone")
    return heads


def test_over_http_and_by_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n" + b'{"status": "warning"}'

    async def main() -> None:
        async def ask(port: int) -> None:
            cluster = Cluster("up", create("random", Random(1)), Clock(), Random(2))
            here, there = Endpoint("127.0.0.1", port, hostname="app.test"), Endpoint("127.0.0.1", 9)
            check = ActiveChecks(cluster, EndpointCheck(http="/health?key=s3cret"))
            assert await check._asked(here) == Health("warning", "GET /health: 200, and says warning")
            check = ActiveChecks(cluster, EndpointCheck(http="/", port=port, host="other"))
            assert (await check._asked(there)).status == "warning"
            check = ActiveChecks(cluster, EndpointCheck())
            assert await check._asked(here) == Health("healthy", "connect: accepted")
            check = ActiveChecks(cluster, EndpointCheck(deep="tasks"))
            assert "is not known" in (await check._asked(here)).output

        heads = await served([answer], ask)
        assert heads[0].startswith(b"GET /health?key=s3cret HTTP/1.1\r\nHost: app.test:")
        assert b"\r\nHost: other\r\n" in heads[1]

    asyncio.run(main())


def test_deep_the_sidecar_in_front_is_asked(tmp_path: Path) -> None:
    """Its app is well and what that needs is not: a warning. Then the app is gone, too."""

    async def main() -> None:
        app = Server(lambda connection: None)
        service = {"name": "tasks", "app": app.address}
        async with RunningAgent(tmp_path, service=service, upstreams={"db": upstream()}) as it:
            assert it.agent.admin_address is not None
            endpoint = Endpoint("127.0.0.1", 1, admin=it.agent.admin_address.port)
            cluster = Cluster("up", create("random", Random(1)), Clock(), Random(2))
            checks = ActiveChecks(cluster, EndpointCheck(deep="tasks"))
            assert await checks._asked(endpoint) == Health(
                "warning", "deep check of tasks: 200, and says warning, of db"
            )
            await asyncio.to_thread(app.stop)
            assert await checks._asked(endpoint) == Health(
                "unhealthy", "deep check of tasks: 503, and says unhealthy, of its app, db"
            )
            other = ActiveChecks(cluster, EndpointCheck(deep="others"))
            assert await other._asked(endpoint) == Health("warning", "deep check of others: its sidecar answered 404")

    asyncio.run(main())


def test_an_agent_begins_checks_and_ends_them_with_a_reload(tmp_path: Path) -> None:
    check = {"interval": 0.1, "timeout": 1, "fall": 1}

    async def main() -> None:
        dead = free_port()
        upstreams = {"up": upstream(f"127.0.0.1:{dead}", health={"check": check, "when_none": "refuse"})}
        async with RunningAgent(tmp_path, upstreams=upstreams) as it:
            cluster = it.agent.upstreams["up"].listener.cluster
            await until(lambda: cluster.endpoints[0].down, "it is down")
            assert not cluster.eligible
            (breaker,) = it.agent.upstreams["up"].breakers
            for _ in range(5):
                breaker.failure(breaker.allow())
            assert breaker.state == OPEN
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", dead)
            async with server:
                await until(lambda: breaker.state == HALF_OPEN, "it is asked as soon as the endpoint is well")
            await until(lambda: cluster.endpoints[0].down, "it is down again")
            it.write(upstreams={"up": upstream(f"127.0.0.1:{dead}")})
            assert await it.agent.reload() == ["upstreams.up: changed"]
            assert cluster.eligible == cluster.endpoints
            assert cluster.endpoints[0].checked is None
            it.write(upstreams={"up": upstream(f"127.0.0.1:{dead}", health={"check": check | {"fall": 2}})})
            await it.agent.reload()
            await until(lambda: cluster.endpoints[0].down, "it is down")

    asyncio.run(main())
