"""What a cluster asks of a balancer, and what it tells it.

Balancers choose among the endpoints they are handed; :mod:`sidecar.endpoints.cluster` decides who is in. Endpoints in
the ``warning`` state have a smaller weight. Balancers that honour weights exactly (``weighs``) are handed them too; the
others would send them a full share, so they see them only when no healthy one is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.endpoints.load import Report


class Balancer:
    """Belongs to one cluster. What it remembers of a single endpoint is in :attr:`Endpoint.load`."""

    __slots__ = ()

    #: Whether traffic follows the weights even when there is little of it.
    weighs: ClassVar[bool] = False
    #: Whether it goes by keys; the others are handed any.
    hashes: ClassVar[bool] = False
    #: Whether it is to be told what came of each try: see :meth:`told`.
    watches: ClassVar[bool] = False

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        """One of ``endpoints``, which is never empty. ``key`` is what a hashing balancer goes by; empty: there is none.
        Called for every try, so it must be cheap."""
        raise NotImplementedError

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        """The set that :meth:`pick` is normally handed has changed to ``endpoints``, or a weight in it has. With none
        of them it is done with, or there are none: it follows no endpoint then."""

    def follow(self, before: Sequence[Endpoint], now: Sequence[Endpoint]) -> None:
        """Be told of what is under way at these endpoints (:meth:`moved`), and at those before no longer."""
        for endpoint in before:
            endpoint.followers = tuple([it for it in endpoint.followers if it is not self])
        for endpoint in now:
            endpoint.followers = (*endpoint.followers, self)

    def moved(self, endpoint: Endpoint, by: int) -> None:
        """At an endpoint that it follows an exchange has begun (1) or ended (-1); :attr:`Endpoint.active` says so
        already."""

    def told(self, endpoint: Endpoint, seconds: float, status: int, failure: str) -> None:
        """A try went to the endpoint: :data:`sidecar.endpoints.cluster.Watcher`."""

    def abandoned(self, endpoint: Endpoint, seconds: float) -> None:
        """Nobody waits any more for a try that has had no answer from the endpoint for so long."""

    def asked_to_wait(self, endpoint: Endpoint, seconds: float) -> None:
        """The endpoint wants no request for so long (``Retry-After``). Comes after :meth:`told`."""

    def reported(self, endpoint: Endpoint, report: Report) -> None:
        """The endpoint's sidecar says how busy it is."""

    def known(self, endpoint: Endpoint) -> dict[str, Any]:
        """What it goes by at the endpoint, for people and as plain JSON: ``ewma_ms``, ``reported``, ``hash_share``,
        ``models``, those that it has."""
        return {}
