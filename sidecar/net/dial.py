"""Dialling: a connection to an address, or to the quickest of several that mean the same (RFC 8305).

All connections to upstreams are made by :func:`dial`, those of the control plane by :func:`connect`. Only addresses
come here, never names: nothing in here waits for a resolver.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, cast

from sidecar.core.address import Address
from sidecar.net.shortage import SHORTAGE, is_local, plain

#: Seconds that an attempt may be silent before the next address is tried beside it (RFC 8305 §5), and the least.
PACE: Final = 0.25
LEAST_PACE: Final = 0.01
#: The most addresses that are tried for one connection.
MOST: Final = 8


def pace(timeout: float) -> float:
    """The pace for a connection that has ``timeout`` seconds: that leaves time for a second address."""
    return max(LEAST_PACE, min(PACE, timeout / 2))


class Target(Protocol):
    """Something with an address."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


T = TypeVar("T", bound=Target)


async def dial(
    loop: asyncio.AbstractEventLoop,
    protocol: object,
    endpoint: T,
    beside: Sequence[T] = (),
    delay: float = PACE,
    blame: Callable[[T, OSError | None], None] | None = None,
    chosen: Callable[[T], None] | None = None,
) -> None:
    """Connect ``protocol`` (an :class:`asyncio.Protocol` by its methods) to ``endpoint``, or to one of ``beside`` when
    that stands first: the next is tried when an attempt has failed, and beside those under way when one was silent for
    ``delay`` seconds. The losers are closed.

    ``chosen`` is called with another endpoint that has won, before the protocol hears of its connection. ``blame`` is
    called for each attempt that failed (with its error) or was silent (``None``), but not for what this host lacked;
    for ``endpoint`` only when another one has won, as otherwise its error is raised, an :class:`OSError`.
    """
    wanted = cast(asyncio.Protocol, protocol)
    if not beside:
        await SHORTAGE.dial(lambda: _single(loop, wanted, endpoint))
        return
    winner, sock = await SHORTAGE.dial(
        lambda: _race(loop, (endpoint, *beside[: MOST - 1]), delay, blame or _blame_nobody)
    )
    try:
        if winner is not endpoint and chosen is not None:
            chosen(winner)
        await loop.create_connection(lambda: wanted, sock=sock)
    except BaseException:
        sock.close()
        raise


async def _single(loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, endpoint: Target) -> None:
    try:
        await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port)
    except OSError as error:
        raise plain(error, endpoint.host, endpoint.port) from None


async def connect(addresses: Sequence[tuple[str, int]], delay: float = PACE) -> socket.socket:
    """Connect to one of ``addresses``, of which there is at least one, in the same way. For the control plane. Raises
    OSError."""
    endpoints = tuple(Address(host, port) for host, port in addresses[:MOST])
    _, sock = await _race(asyncio.get_running_loop(), endpoints, delay, _blame_nobody)
    return sock


def _blame_nobody(endpoint: Target, error: OSError | None) -> None:
    pass


async def _race(
    loop: asyncio.AbstractEventLoop,
    endpoints: tuple[T, ...],
    delay: float,
    blame: Callable[[T, OSError | None], None],
) -> tuple[T, socket.socket]:
    first = endpoints[0]
    first_error: OSError | None = None
    attempts: dict[asyncio.Task[socket.socket], tuple[T, float]] = {}
    upcoming = list(endpoints)
    try:
        while upcoming or attempts:
            if upcoming:
                endpoint = upcoming.pop(0)
                attempts[loop.create_task(_attempt(loop, endpoint))] = endpoint, loop.time()
            done, _ = await asyncio.wait(
                attempts, timeout=delay if upcoming else None, return_when=asyncio.FIRST_COMPLETED
            )
            # In the order in which they were begun: of two that stand, the earlier one counts.
            for task in [task for task in attempts if task in done]:
                error = task.exception()
                if error is None:
                    winner, _ = attempts.pop(task)
                    late = loop.time() - delay * 0.9  # the loop's clock counts milliseconds
                    for other, (loser, begun) in attempts.items():
                        if begun <= late and not other.done():
                            blame(loser, None)
                    if first_error is not None and not is_local(first_error):
                        blame(first, first_error)
                    return winner, task.result()
                if not isinstance(error, OSError):
                    raise error
                failed, _ = attempts.pop(task)
                if failed is first:
                    first_error = error
                elif not is_local(error):
                    blame(failed, error)
        assert first_error is not None
        raise first_error
    finally:
        for task in attempts:
            task.add_done_callback(_discard)
            task.cancel()


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """Close the connection of an attempt that has lost."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _attempt(loop: asyncio.AbstractEventLoop, endpoint: Target) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, (endpoint.host, endpoint.port))
    except OSError as error:
        sock.close()
        raise plain(error, endpoint.host, endpoint.port) from None
    except BaseException:
        sock.close()
        raise
    return sock
