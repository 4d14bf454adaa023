"""py-consul's client over a session that believes an answer no more than it has to.

py-consul reads whatever comes, follows redirects to anywhere with the token in the request, and unpacks what is
compressed. Here an answer has bounds in bytes and time, is never compressed, and is never a redirect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from consul import ConsulException, base
from consul.aio import Consul
from consul.aio import HTTPClient as AioHTTPClient
from consul.callback import CB

#: Bytes of a list, and of any other answer. A list is some 4000 instances as Consul describes them, or notes.
MAX_ANSWER: Final = 8 << 20
MAX_OTHER: Final = 1 << 20
#: Bytes of an answer that is an error; the rest is cut off.
MAX_ERROR: Final = 2048
#: Bytes of one field of an answer's head.
MAX_FIELD: Final = 8190
#: Seconds from the head of an answer to its end. Its head may take as long as the query blocks.
BODY: Final = 10.0


class BadAnswer(ConsulException):  # type: ignore[misc]
    """Consul is there, but what it says is no answer to what it was asked."""


class HTTPClient(AioHTTPClient):  # type: ignore[misc]
    """py-consul's HTTP client with a session and a reader of its own."""

    def __init__(self, host: str, port: int, scheme: str, *, connections: int, timeout: float) -> None:
        base.HTTPClient.__init__(self, host, port, scheme, verify=scheme == "https")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def _request(
        self,
        callback: Callable[[base.Response], Any],
        method: str,
        uri: str,
        headers: Mapping[str, str] | None,
        data: str | bytes | None = None,
        connections_timeout: float | None = None,
        raw: bool = False,
    ) -> Any:
        """Raises :class:`consul.ConsulException`, OSError, TimeoutError or :class:`aiohttp.ClientError`."""
        async with self._session.request(
            method, uri, headers=headers, data=data, allow_redirects=False, max_field_size=MAX_FIELD
        ) as answer:
            status = answer.status
            if not (200 <= status < 300 or 400 <= status < 600):
                where = "a redirect, which is not followed" if 300 <= status < 400 else "which is no answer"
                raise BadAnswer(f"Consul answered {status}, {where}; registry has to name a Consul agent")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise BadAnswer("Consul's answer is compressed, which it was not asked for")
            most = MAX_ERROR if status >= 400 else MAX_ANSWER if raw else MAX_OTHER
            async with asyncio.timeout(BODY):
                body = await _read(answer.content, most, cut=status >= 400)
            if status >= 400:
                answer.close()  # what is left of it is not waited for
        try:
            text = body.decode("utf-8", "replace" if status >= 400 else "strict")
            return callback(base.Response(status, answer.headers, text))
        except ConsulException:
            raise
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"Consul's answer is not JSON: {type(error).__name__}") from error
        except (TypeError, LookupError, AttributeError) as error:  # py-consul takes it for what it asked for
            raise BadAnswer(f"Consul's answer is JSON of another kind: {type(error).__name__}") from error


class Client(Consul):  # type: ignore[misc]
    """py-consul's :class:`consul.aio.Consul` over :class:`HTTPClient`. ``connections`` at most, each for ``timeout``
    seconds."""

    def __init__(
        self, host: str, port: int, *, tls: bool, datacenter: str | None, connections: int, timeout: float
    ) -> None:
        self._connections = connections
        self._timeout = timeout
        super().__init__(host=host, port=port, scheme="https" if tls else "http", verify=tls, dc=datacenter)

    def http_connect(self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None) -> HTTPClient:
        return HTTPClient(host, port, scheme, connections=self._connections, timeout=self._timeout)

    async def instances(self, service: str, *, index: int, wait: str, tag: str) -> tuple[str, str]:
        """The index and the text of ``/v1/health/service/:service``. py-consul's own call would take it apart at once,
        on the event loop."""
        params = [(name, value) for name, value in (("tag", tag), ("dc", self.dc)) if value]
        if index:
            params += [("index", str(index)), ("wait", wait)]
        found: tuple[str, str] = await self.http.get(
            _whole, f"/v1/health/service/{service}", params=params, headers=self.prepare_headers(), raw=True
        )
        return found

    async def values(self, prefix: str) -> Any:
        """What py-consul makes of ``/v1/kv/:prefix?recurse``. Its own call would have to do with the bytes of one
        value: where there are more, those who are to remove some could not read them."""
        params = [("recurse", "1"), *([("dc", self.dc)] if self.dc else [])]
        take = CB.json(index=True, decode="Value")
        return await self.http.get(take, f"/v1/kv/{prefix}", params=params, headers=self.prepare_headers(), raw=True)


def _whole(response: base.Response) -> tuple[str, str]:
    if response.code >= 400:
        CB.json(allow_404=False)(response)  # raises what fits
    if "X-Consul-Index" not in response.headers:
        raise BadAnswer("Consul's answer has no index; registry has to name a Consul agent")
    return response.headers["X-Consul-Index"], response.body


async def _read(content: aiohttp.StreamReader, most: int, *, cut: bool) -> bytes:
    """A body of at most ``most`` bytes. What is beyond is cut off, or raises :class:`BadAnswer`."""
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > most:
            if cut:
                return bytes(body[:most])
            raise BadAnswer(f"Consul's answer has more than {most} bytes")
    return bytes(body)
