"""What another configuration would change in a running sidecar, found out from the two alone.

:mod:`sidecar.agent.reload` carries a plan out; ``sidecar check --against`` prints one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.config.differences import Difference, differences
from sidecar.config.errors import Problem
from sidecar.config.host import default_id
from sidecar.config.schema import Config
from sidecar.config.traffic import Inbound, Upstream

_RESTART: Final = "a change of this takes a restart"
#: What is read once, at the start: keys, with all that is under those that end with a dot…
_FIXED: Final = (
    "service.", "registry", "consul.", "admin.", "probes", "tracing.", "log.", "dns.", "redis", "redirect",
    "inbound.bind", "inbound.protocol",
)  # fmt: skip
#: … except for these.
_FREE: Final = (
    "consul.token",
    "admin.token",
    "log.level",
    "log.access",
    "tracing.sample",
    "tracing.always",
    "tracing.slow",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """Requests that wait on disk: in which file, and how many."""

    path: str
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """From one configuration to another. With anything in ``refused`` nothing is applied. Upstreams are named in the
    order of their file; one whose ``bind`` is another is opened anew, and its old one removed."""

    #: What cannot change while a sidecar runs, and why.
    refused: tuple[Problem, ...]
    #: Every key with another value.
    differences: tuple[Difference, ...]
    #: Upstreams that go, without those that are opened anew.
    removed: tuple[str, ...]
    #: Upstreams that are opened: new ones, and those at another address.
    opened: tuple[str, ...]
    #: Upstreams that stay where they are and behave differently.
    changed: tuple[str, ...]
    #: The inbound listener's policies are others.
    inbound: bool
    #: Keys outside of listeners that are applied.
    settings: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.refused or self.removed or self.opened or self.changed or self.inbound or self.settings)


def plan(old: Config, new: Config, stored: Mapping[str, Stored] | None = None) -> Plan:
    """What a sidecar that runs with ``old`` has to do for ``new``. ``stored`` are the queues that it has open, by path
    (``inbound``, ``upstreams.NAME``); by default those that ``old`` asks for, with nothing in them."""
    if stored is None:
        stored = _queues(old)
    kept = [name for name, upstream in new.upstreams.items() if _stays(old, name, upstream)]
    settings = [key for key in _FREE if _get(old, key) != _get(new, key)]
    settings += [key for key in ("drain", "why", "rehearsal") if getattr(old, key) != getattr(new, key)]
    return Plan(
        refused=(*_refused(old, new, stored), *stranded(old, new, stored)),
        differences=tuple(differences(_comparable(old), _comparable(new))),
        removed=tuple(name for name in old.upstreams if name not in new.upstreams),
        opened=tuple(name for name in new.upstreams if name not in kept),
        changed=tuple(name for name in kept if old.upstreams[name] != new.upstreams[name]),
        inbound=old.inbound is not None and new.inbound is not None and old.inbound != new.inbound,
        settings=tuple(settings),
    )


def stranded(old: Config, new: Config, stored: Mapping[str, Stored]) -> list[Problem]:
    """Upstreams that would go while requests are stored for them, which nobody would deliver then."""
    return [
        Problem(
            f"upstreams.{name}",
            f"{queue.waiting} requests are stored for it, which nobody would deliver; they were answered 202: "
            "take only its queue out, reload, and take the rest out once sidecar_queued_requests is 0",
        )
        for name in old.upstreams
        if (queue := stored.get(f"upstreams.{name}"))
        and queue.waiting
        and (name not in new.upstreams or not _stays(old, name, new.upstreams[name]))
    ]


def _stays(old: Config, name: str, new: Upstream) -> bool:
    """Whether an upstream goes on listening where it does."""
    return name in old.upstreams and old.upstreams[name].bind == new.bind


def _refused(old: Config, new: Config, stored: Mapping[str, Stored]) -> list[Problem]:
    changed = differences(_comparable(old), _comparable(new))
    problems = [
        Problem(it.path, f"{_RESTART}: {it}") for it in changed if it.path.startswith(_FIXED) and it.path not in _FREE
    ]
    if (old.inbound is None) != (new.inbound is None):
        problems.append(Problem("inbound", "adding or removing this takes a restart"))
    if old.inbound is not None and new.inbound is not None:
        problems += _queue("inbound", stored.get("inbound"), new.inbound)
    held = {upstream.bind: name for name, upstream in old.upstreams.items() if upstream.bind.port}
    for name, upstream in new.upstreams.items():
        before = old.upstreams.get(name)
        queue = stored.get(f"upstreams.{name}")
        if before is not None and before.bind == upstream.bind:
            problems += _in_place(before, upstream)
            problems += _queue(f"upstreams.{name}", queue, upstream)
        elif before is not None and queue is not None and queue.path in _queue_paths(upstream):
            problems.append(Problem(f"upstreams.{name}.bind", f"requests are queued there: {_RESTART}"))
        elif before is not None and _spool_path(upstream) and _spool_path(before) == _spool_path(upstream):
            problems.append(Problem(f"upstreams.{name}.bind", f"its spool is in use: {_RESTART}"))
        elif upstream.bind in held:
            holder = held[upstream.bind]
            problems.append(
                Problem(
                    f"upstreams.{name}.bind",
                    f"{upstream.bind} is still held by the upstream {holder!r}; to hand it over, take {holder!r} out "
                    "and reload, then add this one and reload again; or restart",
                )
            )
    return problems


def _in_place(old: Upstream, new: Upstream) -> list[Problem]:
    """What an upstream that goes on listening where it does cannot change."""
    problems = [
        Problem(
            f"upstreams.{new.name}.{key}", f"{_RESTART}, or another bind: {getattr(old, key)} → {getattr(new, key)}"
        )
        for key in ("protocol",)
        if getattr(old, key) != getattr(new, key)
    ]
    before, after = _spool_path(old), _spool_path(new)
    if before != after:
        problems.append(
            Problem(
                f"upstreams.{new.name}.amqp.spool", f"{_RESTART}, or another bind: {_told(before)} → {_told(after)}"
            )
        )
    return problems


def _queue(path: str, stored: Stored | None, new: Inbound | Upstream) -> list[Problem]:
    """Where requests are stored is opened at the start. That no more are stored is fine: those that are get
    delivered."""
    paths = _queue_paths(new)
    before = {stored.path} if stored is not None else set()
    if not paths or paths == before:
        return []
    waiting = f"; {stored.waiting} wait in {stored.path}, and are delivered from there only" if stored else ""
    change = f"{_told(', '.join(before))} → {', '.join(sorted(paths))}"
    return [Problem(path, f"where it queues requests: {_RESTART}: {change}{waiting}")]


def _queues(config: Config) -> dict[str, Stored]:
    listeners: dict[str, Inbound | Upstream] = {f"upstreams.{name}": it for name, it in config.upstreams.items()}
    if config.inbound is not None:
        listeners["inbound"] = config.inbound
    return {path: Stored(min(found)) for path, it in listeners.items() if (found := _queue_paths(it))}


def _queue_paths(listener: Inbound | Upstream) -> set[str]:
    return {queue.path for it in (listener, *listener.routes) if (queue := it.policies.get("queue")) is not None}


def _spool_path(upstream: Upstream) -> str:
    return upstream.amqp.spool.path if upstream.amqp is not None and upstream.amqp.spool is not None else ""


def _told(path: str) -> str:
    return path or "(nowhere)"


def _comparable(config: Config) -> Config:
    """Without a default id: the inbound port is in it, and a change of that is told by itself."""
    port = config.inbound.bind.port if config.inbound else None
    service = config.service
    return replace(config, service=replace(service, id="")) if service.id == default_id(service.name, port) else config


def _get(config: Config, path: str) -> object:
    section, _, key = path.partition(".")
    return getattr(getattr(config, section), key)
