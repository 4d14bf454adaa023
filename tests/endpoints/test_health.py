"""The check of the app, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from sidecar.core.address import Address
from sidecar.core.health import Health
from sidecar.endpoints.health import FIRST_DELAY, AppCheck, AppChecker
from sidecar.endpoints.http_check import MAX_BODY
from support.processes import free_port
from support.registries import until


class App:
    """Answers every connection with the same bytes (None: never), and keeps the heads it got."""

    def __init__(self, answer: bytes | None, *, keep_open: bool = False) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self._keep_open = keep_open

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
            if self.answer is None or self._keep_open:
                await reader.read()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


def checked(app: App, check: AppCheck, main: Callable[[AppChecker], Awaitable[None]]) -> list[Health]:
    """Run ``main`` with a checker of this app; returns the results that were reported."""
    results: list[Health] = []

    async def run() -> None:
        server = await asyncio.start_server(app.serve, "127.0.0.1", 0)
        async with asyncio.timeout(180), server:
            checker = AppChecker(Address("127.0.0.1", server.sockets[0].getsockname()[1]), check, results.append)
            try:
                await main(checker)
            finally:
                await checker.close()
                await asyncio.sleep(0.01)
            others = {task for task in asyncio.all_tasks() if task.get_name().startswith("app check")}
            assert not others

    asyncio.run(run())
    return results


def once(answer: bytes | None, path: str = "/health", timeout: float = 1.0, keep_open: bool = False) -> Health:
    """The result of one HTTP check."""

    async def main(checker: AppChecker) -> None:
        await checker.check_now()

    (health,) = checked(App(answer, keep_open=keep_open), AppCheck(http=path, timeout=timeout), main)
    return health


@pytest.mark.parametrize(
    ("host", "sent"), [("app.example", "app.example"), ("[::1]:80", "[::1]:80"), ("", "127.0.0.1:")]
)
def test_the_host_that_is_asked_for(host: str, sent: str) -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        await checker.check_now()

    checked(app, AppCheck(http="/health", host=host), main)
    [head] = app.heads
    assert head.count(b"Host:") == 1
    assert f"\r\nHost: {sent}" in head.decode()


def answer(status: int, body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, "healthy"), (204, "healthy"), (299, "healthy"), (429, "warning"), (301, "unhealthy"), (302, "unhealthy"),
     (404, "unhealthy"), (500, "unhealthy"), (503, "unhealthy")],
)  # fmt: skip
def test_the_status_decides_as_with_consul(status: int, expected: str) -> None:
    health = once(answer(status))
    assert health.status == expected
    assert health.output.startswith(f"GET /health: {status}")


def test_the_request_is_plain_and_the_query_is_sent_but_not_told() -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        assert (await checker.check_now()).output == "GET /häl th: 200"

    checked(app, AppCheck(http="/häl th?key=s3cret"), main)
    head = app.heads[0].decode("ascii")
    assert head.startswith("GET /h%C3%A4l%20th?key=s3cret HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "Connection: close\r\n" in head


def test_a_path_cannot_add_a_header() -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        await checker.check_now()

    checked(app, AppCheck(http="/a HTTP/1.1\r\nEvil: 1"), main)
    assert b"\r\nEvil" not in app.heads[0]


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [
        (b"", "closed before"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", "closed before"),
        (b"hello\r\n\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, ""),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, "too long"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, "too long"),
    ],
)
def test_nonsense_is_unhealthy(bytes_: bytes, said: str) -> None:
    health = once(bytes_)
    assert health.status == "unhealthy"
    assert said in health.output


def test_interim_answers_and_bodies_of_any_kind_are_fine() -> None:
    assert once(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(200)).status == "healthy"
    assert once(answer(200, b"x" * MAX_BODY * 4)).status == "healthy"
    assert once(b"HTTP/1.0 200 OK\n\nbody").status == "healthy"
    assert once(b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").status == "healthy"


def test_an_app_that_keeps_the_connection_open_does_not_hold_the_check_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    assert once(b"HTTP/1.1 200 OK\r\n\r\nendless", timeout=600.0, keep_open=True).status == "healthy"
    monkeypatch.setattr("sidecar.endpoints.http_check.BODY_TIME", 600.0)
    assert once(answer(200), timeout=600.0, keep_open=True).status == "healthy"
    assert time.monotonic() - begun < 60


def test_no_answer_in_time_is_unhealthy() -> None:
    health = once(None, timeout=0.1)
    assert health == Health("unhealthy", "GET /health: no answer within 0.1 s")


def test_a_tcp_check_is_a_connect() -> None:
    async def main(checker: AppChecker) -> None:
        assert (await checker.check_now()).status == "healthy"

    checked(App(b""), AppCheck(), main)


def test_a_closed_port_is_unhealthy() -> None:
    async def main() -> None:
        for check in (AppCheck(), AppCheck(http="/health")):
            checker = AppChecker(Address("127.0.0.1", free_port()), check, lambda health: None)
            health = await checker.check_now()
            assert health.status == "unhealthy"
            assert "onnect" in health.output

    asyncio.run(main())


def test_while_the_app_starts_it_is_asked_often_and_then_at_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(answer(503))
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds >= FIRST_DELAY:
            pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)

    async def main(checker: AppChecker) -> None:
        checker.start()
        checker.start()
        await until(lambda: len(app.heads) >= 3, "asked again and again")
        assert checker.health.status == "unhealthy"
        app.answer = answer(200)
        assert await until(lambda: checker.health.status == "healthy", "noticed soon") < 10 * FIRST_DELAY
        await until(lambda: len(pauses) == len(app.heads), "it waits again")
        *often, last = pauses
        assert often == [FIRST_DELAY * 2**n for n in range(len(often))]
        assert 0.95 * 60 <= last <= 60

    results = checked(app, AppCheck(http="/health", interval=60), main)
    assert [health.status for health in results] == ["unhealthy"] * (len(results) - 1) + ["healthy"]


def test_an_app_that_was_well_is_asked_at_the_interval() -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        checker.start()
        await until(lambda: checker.health.status == "healthy", "well")
        app.answer = answer(500)
        await until(lambda: checker.health.status == "unhealthy", "noticed")
        app.answer = answer(429)
        await until(lambda: checker.health.status == "warning", "noticed")

    checked(app, AppCheck(http="/health", interval=0.1), main)


def test_many_callers_share_one_check() -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        first = asyncio.create_task(checker.check_now())
        others = [asyncio.create_task(checker.check_now()) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()  # the others get their result all the same
        assert {(await other).status for other in others} == {"healthy"}

    assert len(checked(app, AppCheck(http="/health"), main)) == 1
    assert len(app.heads) == 1


def test_a_listener_that_raises_does_not_end_the_checks(caplog: pytest.LogCaptureFixture) -> None:
    app = App(answer(200))

    async def main(checker: AppChecker) -> None:
        def broken(health: Health) -> None:
            raise RuntimeError("broken listener")

        checker._on_result = broken
        checker.start()
        await until(lambda: len(app.heads) >= 3, "it goes on")

    checked(app, AppCheck(http="/health", interval=0.05), main)
    assert "broken listener" in caplog.text
