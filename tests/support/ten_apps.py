"""Small apps that call one another, all in one process: ``ten_apps.py NAME=PORT=CALLS …``. CALLS are the ports that an
app calls for each request, one after the other, with commas between them.

Each answers what it got from them: 200, or 502 when one of them did not answer well. ``/health`` is always well. After
``POST /fault?status=N&ms=N`` an app answers with that status (0: as usual), so long after it was asked.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.parse

#: What an app passes on of a request, so that its story stays one.
PASSED_ON = ("x-request-id", "traceparent")


class App:
    def __init__(self, name: str, calls: list[int]) -> None:
        self.name = name
        self.calls = calls
        self.status = 0
        self.ms = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                await reader.readexactly(int(fields.get("content-length", 0)))
                status, text = await self.answer(first.split(" ")[1], fields)
                body = f"{self.name}: {text}\n".encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, target: str, fields: dict[str, str]) -> tuple[int, str]:
        path, _, query = target.partition("?")
        if path == "/health":
            return 200, "well"
        if path == "/fault":
            asked = dict(urllib.parse.parse_qsl(query))
            self.status, self.ms = int(asked.get("status", 0)), int(asked.get("ms", 0))
            return 200, "as you say"
        await asyncio.sleep(self.ms / 1000)
        if self.status:
            return self.status, "out of order"
        for port in self.calls:
            if await call(port, target, fields) >= 400:
                return 502, "what it calls has failed"
        return 200, "done"


async def call(port: int, target: str, fields: dict[str, str]) -> int:
    """The status of an answer; 599: there was none."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            more = "".join(f"{name}: {fields[name]}\r\n" for name in PASSED_ON if name in fields)
            writer.write(
                f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n".encode("latin-1")
            )
            status = int((await reader.readuntil(b"\r\n")).split(b" ")[1])
            await reader.read()
            return status
        finally:
            writer.close()
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
        return 599


async def main() -> None:
    servers = []
    for argument in sys.argv[1:]:
        name, port, calls = argument.split("=")
        app = App(name, [int(it) for it in calls.split(",") if it])
        servers.append(await asyncio.start_server(app.serve, "127.0.0.1", int(port), backlog=512))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
