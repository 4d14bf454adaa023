"""The sample services: ``python -m sidecar.demo.service KIND NAME PORT [UPSTREAM=PORT …]``.

``tasks``  answers ``/work`` after a few milliseconds
``model``  answers ``/generate`` with a slow stream of words, as a language model does
``web``    passes ``/tasks`` on to the port of its upstream ``tasks``, and ``/ask`` to that of ``model``

They know nothing of sidecars: ``web`` dials ports of 127.0.0.1, and the other two listen there. All answer ``/health``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence

_WORDS = b"a sidecar carries what the service need not know about the network around it".split(b" ")
#: Seconds between two words of the model.
_PAUSE = 0.03
#: Header fields that a service passes on, so that a trace stays one trace.
_PASSED_ON = ("traceparent", "tracestate", "x-request-id")


class Service:
    """One sample service. ``upstreams`` maps names to ports of this host."""

    def __init__(self, kind: str, name: str, upstreams: dict[str, int]) -> None:
        self._kind = kind
        self._name = name
        self._upstreams = upstreams

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
            pass  # the peer left, or talks nonsense
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request. Return whether the connection can be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if path == "/health":
            self._answer(writer, b"fine\n")
        elif (self._kind, path) == ("tasks", "/work"):
            await asyncio.sleep(random.uniform(0.002, 0.006))
            self._answer(writer, b"done\n")
        elif (self._kind, path) == ("model", "/generate"):
            await self._generate(writer)
        elif (self._kind, path) == ("web", "/tasks"):
            await self._pass_on(method, "tasks", "/work", fields, body, writer)
            return False
        elif (self._kind, path) == ("web", "/ask"):
            await self._pass_on(method, "model", "/generate", fields, body, writer)
            return False
        else:
            self._answer(writer, b"there is no such page\n", "404 Not Found")
        await writer.drain()
        return True

    def _answer(self, writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nx-instance: {self._name}\r\n\r\n"
        writer.write(head.encode() + body)

    async def _generate(self, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-instance: {self._name}\r\n\r\n".encode())
        for word in _WORDS:
            await asyncio.sleep(_PAUSE)
            writer.write(b"%x\r\n%b \r\n" % (len(word) + 1, word))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def _pass_on(
        self, method: str, upstream: str, path: str, fields: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        """Ask an upstream, and pass its answer on as it comes, to the end of the connection."""
        port = self._upstreams[upstream]
        lines = [f"{method} {path} HTTP/1.1", f"host: {upstream}", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{name}: {fields[name]}" for name in _PASSED_ON if name in fields]
        source, sink = await asyncio.open_connection("127.0.0.1", port)
        try:
            sink.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            while data := await source.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            sink.close()


async def main(arguments: Sequence[str]) -> None:
    """Serve until the process is ended."""
    kind, name, port, *rest = arguments
    upstreams = {upstream: int(number) for upstream, _, number in (item.partition("=") for item in rest)}
    service = Service(kind, name, upstreams)
    server = await asyncio.start_server(service.serve, "127.0.0.1", int(port), backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
