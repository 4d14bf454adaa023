"""A broker's name with several addresses, one of which is silent."""

from __future__ import annotations

import asyncio
from struct import pack

from sidecar.config.traffic import Upstream
from sidecar.core.amqp_settings import Amqp
from sidecar.core.instance import Instance
from support.live import ANY_PORT, Live, run
from support.patience import until
from support.silent import Silent

#: connection.start, with an empty table, in a frame of channel 0.
_ARGUMENTS = pack(">HHBBI", 10, 10, 0, 9, 0) + pack(">I", 5) + b"PLAIN" + pack(">I", 5) + b"en_US"
START = pack(">BHI", 1, 0, len(_ARGUMENTS)) + _ARGUMENTS + b"\xce"


async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """It greets, and no more."""
    try:
        await reader.readexactly(8)
        writer.write(START)
        await reader.read()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


def test_a_silent_address_costs_a_moment_once() -> None:
    async def main() -> None:
        async with await asyncio.start_server(broker, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            silent = Silent("127.0.4.2", port)
            try:
                async with Live(Upstream(name="up", bind=ANY_PORT, protocol="amqp", amqp=Amqp())) as live:
                    live.listener.cluster.update(
                        Instance(host=host, port=port, hostname="mq.test") for host in ("127.0.4.2", "127.0.0.1")
                    )
                    for _ in range(4):
                        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
                        writer.write(b"AMQP\x00\x00\x09\x01")
                        assert (await reader.readexactly(7))[0] == 1
                        writer.transport.abort()
                    ends = live.listener.cluster.endpoints
                    assert [bool(endpoint.ejected_until) for endpoint in ends] == [True, False]
                    await until(live.nothing_left)
            finally:
                silent.close()

    run(main)
