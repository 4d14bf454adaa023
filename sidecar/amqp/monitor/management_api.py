"""What RabbitMQ's management API tells about exchanges and bindings (``/api/exchanges/…``, ``/api/bindings/…``).

It is asked now and then, and replaces what was learnt from the traffic: so the bindings are known that were there
before us. It is a help, not a need: when it cannot be asked, that is a line in the log.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from sidecar.amqp.monitor.connection import TroubleLog, describe, end
from sidecar.amqp.topology.binding import Binding
from sidecar.amqp.topology.bindings import Bindings
from sidecar.core.amqp_settings import AmqpCredentials

if TYPE_CHECKING:
    from aiohttp import ClientSession

#: How often it is asked, and how long an answer may take, seconds.
INTERVAL: Final = 15.0
ANSWER_SECONDS: Final = 10.0
#: The longest answer that is read, bytes: some 100 000 bindings.
MAX_ANSWER: Final = 16 << 20

SOURCE: Final = "the management API"

_rng = random.Random()


class ManagementApi:
    """Asks for the exchanges and bindings of ``vhosts`` until it is closed."""

    def __init__(
        self, url: str, credentials: AmqpCredentials, vhosts: tuple[str, ...], store: Bindings, report: TroubleLog
    ) -> None:
        self.url = url
        self.vhosts = vhosts
        self._credentials = credentials
        self._store = store
        self._report = report
        #: vhost → a digest of what was told last, and the bindings' version with that in it.
        self._known: dict[str, tuple[bytes, int]] = {}
        self._task = asyncio.create_task(self._run(), name="amqp management")

    async def close(self) -> None:
        await end(self._task)
        for vhost in self.vhosts:
            self._report.gone(_source(vhost))

    async def _run(self) -> None:
        from aiohttp import ClientSession, ClientTimeout

        login = f"{self._credentials.username}:{self._credentials.password.reveal()}"
        headers = {
            "Authorization": f"Basic {b64encode(login.encode()).decode()}",
            "Accept-Encoding": "identity",  # what is compressed could be of any size
        }
        timeout = ClientTimeout(total=ANSWER_SECONDS)
        async with ClientSession(timeout=timeout, headers=headers, auto_decompress=False) as session:
            while True:
                for vhost in self.vhosts:
                    source = _source(vhost)
                    try:
                        await self._ask(session, vhost)
                    except Exception as error:
                        self._report.bad(source, type(error).__name__, f"{describe(error)}; what is known stays in use")
                    else:
                        self._report.good(source)
                await asyncio.sleep(INTERVAL * _rng.uniform(0.9, 1.1))

    async def _ask(self, session: ClientSession, vhost: str) -> None:
        store = self._store
        heard = store.heard
        exchanges = await self._get(session, "exchanges", vhost, "name,type")
        bindings = await self._get(
            session, "bindings", vhost, "source,destination,destination_type,routing_key,arguments"
        )  # fmt: skip
        told = await asyncio.to_thread(_digest, exchanges, bindings)
        if (told, store.version) == self._known.get(vhost) and not store.forgotten:
            return  # nothing has changed, and comparing ten thousand bindings would hold up the loop for 40 ms
        found = await asyncio.to_thread(parse_bindings, bindings)
        store.replace(vhost, parse_exchanges(exchanges), found, heard)
        self._known[vhost] = told, store.version

    async def _get(self, session: ClientSession, what: str, vhost: str, columns: str) -> bytes:
        from yarl import URL

        address = f"{self.url.rstrip('/')}/api/{what}/{quote(vhost, safe='')}?columns={columns}"
        # A redirect would take the password along.
        async with session.get(URL(address, encoded=True), allow_redirects=False) as answer:
            if answer.status != 200:
                raise ManagementError(_meaning(answer.status))
            parts = bytearray()
            async for part in answer.content.iter_any():
                parts += part
                if len(parts) > MAX_ANSWER:
                    raise ManagementError(f"its answer is longer than {MAX_ANSWER} bytes")
            return bytes(parts)


class ManagementError(Exception):
    """The management API answered, but not with what was asked for."""


def parse_exchanges(data: bytes) -> dict[str, str]:
    """Name → type. Raises :class:`ManagementError`."""
    return {_text(item, "name"): _text(item, "type") for item in _list(data)}


def parse_bindings(data: bytes) -> list[Binding]:
    """All bindings but those of the default exchange, which are a matter of course. Raises :class:`ManagementError`."""
    found: list[Binding] = []
    for item in _list(data):
        source = _text(item, "source")
        if source:
            arguments = item.get("arguments")
            found.append(
                Binding(
                    source,
                    _text(item, "destination"),
                    _text(item, "routing_key"),
                    arguments if isinstance(arguments, dict) else None,
                    _text(item, "destination_type") == "exchange",
                )
            )
    return found


def _digest(*parts: bytes) -> bytes:
    return b"".join(blake2b(part, digest_size=16).digest() for part in parts)


def _list(data: bytes) -> list[dict[str, Any]]:
    try:
        found = orjson.loads(data)
    except ValueError as error:
        raise ManagementError("its answer is not JSON") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ManagementError("its answer is not a list of objects")
    return found


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ManagementError(f"its answer lacks a {key}")
    return value


def _meaning(status: int) -> str:
    if status == 401:
        return "it does not accept the credentials, or the user lacks the tag management (401)"
    if status == 404:
        return "there is no such vhost, or no such API there (404)"
    return f"it answers with status {status}"


def _source(vhost: str) -> str:
    return f"{SOURCE} about vhost {vhost}"
