"""Whether a login is good, as a broker says it: word for word, over a real socket."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.amqp.login_check import Refused, log_in
from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.core.secret import Secret
from support.amqp import close, connection_open_ok, start, tune
from support.patience import PATIENCE

LOGIN = AmqpCredentials(username="web", password=Secret("hush"))


class Broker:
    """Says one of these after each thing that it is told, and ``b""`` is the end of it."""

    def __init__(self, *words: bytes) -> None:
        self.words = words
        self.heard = b""
        self.over = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for word in self.words:
            self.heard += await reader.read(4096)
            if not word:
                break
            writer.write(word)
            await writer.drain()
        else:
            self.heard += await reader.read()
        writer.close()
        await writer.wait_closed()
        self.over.set()

    def asked(self, credentials: AmqpCredentials | None, vhost: str = "/") -> str:
        async def ask() -> str:
            server = await asyncio.start_server(self, "127.0.0.1", 0)
            async with server, asyncio.timeout(PATIENCE):
                try:
                    return await log_in("127.0.0.1", server.sockets[0].getsockname()[1], credentials, vhost)
                finally:
                    await self.over.wait()

        return asyncio.run(ask())


def test_without_a_login_the_first_word_is_enough() -> None:
    broker = Broker(start())
    assert broker.asked(None) == "start"
    assert broker.heard.startswith(b"AMQP\x00\x00\x09\x01")


@pytest.mark.parametrize("word", [b"SSH-2.0-OpenSSH\r\n", b"AMQP\x00\x00\x09\x01", b""])
@pytest.mark.parametrize("credentials", [None, LOGIN])
def test_what_is_no_broker_is_named(word: bytes, credentials: AmqpCredentials | None) -> None:
    with pytest.raises(EOFError, match=r"speaks no AMQP 0-9-1"):
        Broker(word).asked(credentials)


def test_a_good_login_opens_the_vhost_and_closes() -> None:
    broker = Broker(start(), tune(), connection_open_ok())
    assert broker.asked(LOGIN, "shop") == "open"
    assert b"\x00web\x00hush" in broker.heard
    assert b"\x04shop" in broker.heard
    assert b"sidecar diagnose" in broker.heard


def test_a_wrong_login_is_told_apart_from_a_vhost_that_is_not_allowed() -> None:
    with pytest.raises(Refused, match="ACCESS_REFUSED") as wrong:
        Broker(start(), close(403, "ACCESS_REFUSED - wrong password")).asked(LOGIN)
    assert wrong.value.login
    with pytest.raises(Refused, match="NOT_ALLOWED") as forbidden:
        Broker(start(), tune(), close(530, "NOT_ALLOWED - vhost shop not found")).asked(LOGIN, "shop")
    assert not forbidden.value.login


def test_nobody_listens() -> None:
    async def ask() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        await log_in("127.0.0.1", port, LOGIN, "/")

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(ask())
