"""What every registry offers to the rest of the program, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sidecar.core.instance import Instance, OnChange
from sidecar.core.secret import Secret
from sidecar.registry.settings import Workload
from sidecar.registry.shared_value import Found, OnValue, SharedValue


class Registration(Protocol):
    """A workload that is kept registered: in the background, retried for ever, paced."""

    def set_health(self, status: str, output: str) -> None:
        """Report its health: ``passing``, ``warning`` or ``critical`` with a line of text. Before the first time it
        counts as critical."""
        ...

    def change(self, workload: Workload) -> None:
        """Register it so from now on; name, id, address and port stay."""
        ...

    async def leave(self) -> None:
        """Take it out; bounded in time, never raises."""
        ...


class Registry(Protocol):
    """Registers this workload and watches others. All methods are called from the event loop's thread."""

    @property
    def up(self) -> bool:
        """Whether the last exchange with the registry went well."""
        ...

    @property
    def age(self) -> float:
        """Seconds since the registry last answered; 0 while it is up."""
        ...

    def watch(self, service: str, tag: str, on_change: OnChange) -> Callable[[], None]:
        """Follow a service's instances, those with ``tag`` (empty: all), until the returned function is called.
        Watches of the same service and tag share one query. Before the first answer there is no call; while the
        registry is away the last set stays valid and there is no call either."""
        ...

    async def answered(self) -> None:
        """Returns when every watch under way has had its first answer (at once when there is none)."""
        ...

    async def sidecars(self) -> Sequence[Instance]:
        """The sidecars that are registered as services of their own, those that do not run included. Raises OSError or
        TimeoutError when the registry cannot be asked."""
        ...

    async def services(self) -> Mapping[str, frozenset[str]]:
        """The names of all services that are registered, with the tags of their instances. Raises OSError or
        TimeoutError when the registry cannot be asked."""
        ...

    def share(self, name: str, on_value: OnValue) -> SharedValue:
        """Follow a value that all sidecars have under this name, from its first answer on; it can be changed, too."""
        ...

    async def exchange(self, name: str, who: str, data: bytes | None) -> Mapping[str, Found]:
        """Put a note of ``who`` (16 hexadecimal digits) beside the shared value of that name (None: leave it as it is),
        and return the notes of all, by who wrote them. They are as they were at one moment. Raises OSError or
        TimeoutError when the registry cannot be asked."""
        ...

    async def erase(self, name: str, notes: Mapping[str, object]) -> None:
        """Remove these notes beside a shared value, by who wrote them, if they are still of these versions. Raises
        OSError or TimeoutError when the registry cannot be asked."""
        ...

    def enroll(self, workload: Workload) -> Registration:
        """Start to keep a workload registered, beside the one of the settings."""
        ...

    def register(self) -> None:
        """Start to keep this workload registered (in the background; retried for ever, paced). Calls after the
        first have no effect."""
        ...

    def set_health(self, status: str, output: str) -> None:
        """Report the workload's health: ``passing``, ``warning`` or ``critical`` with a line of text."""
        ...

    def use_token(self, token: Secret) -> None:
        """From now on, prove who we are with another token, where the registry wants one."""
        ...

    async def deregister(self) -> None:
        """Take the workload out; bounded in time, never raises."""
        ...

    async def close(self) -> None:
        """Stop every background task and close connections. What is registered stays so."""
        ...
