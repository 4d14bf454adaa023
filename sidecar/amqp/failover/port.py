"""A port's spool as its sessions see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.amqp.failover.credential_cache import CredentialCache
    from sidecar.amqp.spool.intake import Intake
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog
    from sidecar.amqp.wire.handshake import Handshake


class FailoverPort:
    """What the sessions of a port with a spool share, and what they tell it."""

    intake: Intake
    catalog: BrokerCatalog
    credential_cache: CredentialCache
    #: When a client last found no broker (the loop's time).
    missed: float

    def met(self, handshake: Handshake) -> None:
        """The broker has let a client in."""
        raise NotImplementedError

    def vouched(self, handshake: Handshake) -> None:
        """A client's login is good: the broker says so, or has said so before of the very same one."""
        raise NotImplementedError

    def not_known(self, user: str, what: str) -> None:
        """A client cannot be let in before there is a broker."""
        raise NotImplementedError

    def seen(self, handshake: Handshake) -> None:
        """The broker has it in until now."""
        raise NotImplementedError

    def searches(self, hurry: Callable[[], None]) -> None:
        """A client has no broker, and looks for one; ``hurry`` is called when another has found one."""
        raise NotImplementedError

    def reached(self, hurry: Callable[[], None]) -> None:
        """It has found one."""
        raise NotImplementedError

    def left(self, hurry: Callable[[], None]) -> None:
        """It looks no longer, as it has all that it had, or its client has gone."""
        raise NotImplementedError

    def broker_is_back(self) -> None:
        """A client has just reached it again."""
        raise NotImplementedError
