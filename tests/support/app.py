"""A small HTTP app for acceptance tests, run as a process: ``app.py NAME PORT [MS]``.

It answers with its name, the head it received and the size of the body; ``/slow/MS`` after MS milliseconds,
``/status/NNN`` with that status, ``/stream/N`` with N chunks instead; ``/work`` takes MS milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def serve(name: str, work: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            status = 200
            part, _, argument = target.lstrip("/").partition("/")
            if part == "slow":
                await asyncio.sleep(int(argument) / 1000)
            elif part == "work":
                await asyncio.sleep(work)
            elif part == "status":
                status = int(argument)
            elif part == "stream":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for number in range(int(argument)):
                    writer.write(b"7\r\nchunk%2d\r\n" % number)
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                continue
            answer = json.dumps(
                {"name": name, "method": method, "target": target, "headers": fields, "size": len(body)}
            ).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(answer), answer)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    name, port, work = sys.argv[1], int(sys.argv[2]), float((*sys.argv, "0")[3]) / 1000
    server = await asyncio.start_server(lambda r, w: serve(name, work, r, w), "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
