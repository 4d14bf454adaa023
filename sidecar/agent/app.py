"""The workload's own app: where it is, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sidecar.core.address import Address
from sidecar.core.health import Health
from sidecar.core.instance import Instance
from sidecar.endpoints.health import AppCheck, AppChecker
from sidecar.endpoints.names import Expansion, Names


class App:
    """Knows the addresses that ``address`` stands for from now on; checks the app as soon as it is started.

    ``on_addresses`` is called whenever they have changed, with an instance for each and why there is none, for people
    and in one word (empty: there are some); ``on_health`` with every result of a check.
    """

    def __init__(
        self,
        address: Address,
        check: AppCheck,
        names: Names,
        on_addresses: Callable[[tuple[Instance, ...], str, str], None],
        on_health: Callable[[Health], None],
    ) -> None:
        self._on_addresses = on_addresses
        self._addresses: tuple[Address, ...] = ()
        self._checker = AppChecker(address, check, on_health, self._where)
        self._expansion = Expansion(names, "service.app", self._found)
        self._expansion.update([Instance(host=address.host, port=address.port, id="app")])

    def start(self) -> None:
        """Begin to check it, the first time at once."""
        self._checker.start()

    async def check_now(self) -> Health:
        """Check it once; never raises."""
        return await self._checker.check_now()

    def leave(self) -> None:
        """Stop following its addresses."""
        self._expansion.close()

    async def close(self) -> None:
        """Stop checking it."""
        await self._checker.close()

    def _found(self, instances: tuple[Instance, ...]) -> None:
        self._addresses = tuple(Address(instance.host, instance.port) for instance in instances)
        self._on_addresses(instances, self._expansion.problem, self._expansion.cause)

    def _where(self) -> Sequence[Address]:
        """Its addresses. Raises OSError when there are none."""
        if not self._addresses:
            raise OSError(self._expansion.problem)
        return self._addresses
