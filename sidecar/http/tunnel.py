"""What has left HTTP (RFC 9110 §7.8): a WebSocket or another upgrade, whose bytes pass as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.exchange.phases import TUNNEL

if TYPE_CHECKING:
    from sidecar.http.ends import UpstreamEnd
    from sidecar.http.exchange import HttpExchange


def begin_tunnel(x: HttpExchange, conn: UpstreamEnd, raw: bytes, rest: bytes) -> None:
    """Write the head of the answer, ``raw``, and what came behind it. The connection's place in the pool is given
    back."""
    x.phase = TUNNEL
    x.half_closed = False
    x.keep_client = False
    client = x.client
    client.transport.write(raw + rest)
    x.count_out(len(rest))
    x.listener.stats.tunnels += 1
    x.pool.upgraded(conn)
    client.resume_reading()  # before a write that may pause it again
    early = client.take_buffer()
    if early:
        from_client(x, early)
    x.touched = x.listener.clock()
    x.check_idle(x.touched)
    if client.half_closed:
        closed(x, by_client=True)


def from_client(x: HttpExchange, data: bytes) -> None:
    """Client → upstream."""
    conn = x.conn
    if conn is not None:
        conn.transport.write(data)
        x.count_in(len(data))
        x.touched = x.listener.clock()


def from_upstream(x: HttpExchange, data: bytes) -> None:
    """Upstream → client."""
    x.client.transport.write(data)
    x.count_out(len(data))
    x.touched = x.listener.clock()


def closed(x: HttpExchange, by_client: bool) -> None:
    """One side has finished sending: tell the other; when both have, it is over."""
    if x.half_closed:
        x.finish()
        return
    x.half_closed = True
    conn = x.conn
    transport = conn.transport if by_client and conn is not None else x.client.transport
    if not transport.is_closing():
        transport.write_eof()
