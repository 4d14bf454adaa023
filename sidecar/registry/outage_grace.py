"""Keeps endpoints in use while a registry that lost its data is being filled again."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.instance import Instance

#: Seconds that instances which a returning registry does not know are kept. A sidecar notices within its
#: keep-alive interval (at most 10 s) and a retry (at most 10 s) that its registration is lost; the rest is for the
#: registry to elect a leader and for a slow host. Endpoints that are really gone fail to connect and are ejected.
GRACE = 60.0


class Hold:
    """An empty catalog right after an outage nearly always means lost data (an agent restarted with an empty data
    directory) or health states not reported again yet, and acting on it would turn a registry's restart into an
    outage of everything. So a first answer after an outage that is empty, or one whose index went back, does not
    remove instances: they are held for :data:`GRACE` seconds. An instance that re-appears is no longer held, and
    what the registry says of it counts at once. Without an outage and with a growing index every answer counts."""

    def __init__(self, clock: Callable[[], float], grace: float = GRACE) -> None:
        self._clock = clock
        self._grace = grace
        self._last: tuple[Instance, ...] = ()
        self._held: dict[tuple[str, str, int], Instance] = {}
        self._until = 0.0
        self._doubt = False

    @property
    def remaining(self) -> float:
        """Seconds until held instances have to go; 0 when none is held."""
        return max(0.001, self._until - self._clock()) if self._held else 0.0

    def outage(self) -> None:
        """The registry did not answer: doubt the next answer."""
        self._doubt = True

    def apply(self, found: tuple[Instance, ...], *, went_back: bool = False) -> tuple[Instance, ...]:
        """The set to use when the registry answered with ``found``; ``went_back``: its index is lower than before."""
        lost = went_back or (self._doubt and (not found or bool(self._held)))
        if lost and (self._doubt or not self._held):  # an index that goes back again and again does not prolong it
            self._until = self._clock() + self._grace
        if lost:
            self._held |= {_key(instance): instance for instance in self._last}
        self._doubt = False
        if self._clock() >= self._until:
            self._held.clear()
        # Back under its id (perhaps at another address) or, where there are no ids, under its address.
        back = {instance.id or (instance.host, instance.port) for instance in found}
        self._held = {
            key: instance
            for key, instance in self._held.items()
            if (instance.id or (instance.host, instance.port)) not in back
        }
        self._last = tuple(sorted((*found, *self._held.values()), key=_key))
        return self._last

    def release(self) -> tuple[Instance, ...]:
        """Let go of what is held, unless the registry is away again; the set to use from now on."""
        if self._doubt:
            return self._last
        self._last = tuple(instance for instance in self._last if _key(instance) not in self._held)
        self._held.clear()
        return self._last


def _key(instance: Instance) -> tuple[str, str, int]:
    return (instance.id, instance.host, instance.port)
