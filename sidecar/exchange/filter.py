"""What a filter is, what it may say, and the chain that a listener or a route runs.

A filter applies one mechanism to traffic. It is a class derived from :class:`Filter` that overrides some of its hooks,
all of them synchronous. A chain is built once per configuration and holds only the hooks that are overridden, so those
of others cost nothing. :func:`check` refuses a class whose hooks are misspelt or take something else.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from sidecar.core.compiling import mypyc_attr
from sidecar.core.replies import Reply, declare
from sidecar.core.stats import ListenerStats
from sidecar.exchange.times import Times
from sidecar.resilience.budget import Budget

#: A request body up to this size is kept, so that the request can be sent again.
KEEP: Final = 65536
#: No bound.
ANY: Final = 1 << 60


class Wait:
    """The exchange waits. At ``until`` (time of the listener's clock) it goes on with the next filter, or is answered
    ``otherwise``; the filter may end the wait before, by the exchange's ``grant()``, ``reply()`` or ``respond()``.
    See :data:`HELD`."""

    __slots__ = ("otherwise", "until")

    def __init__(self, until: float, otherwise: Reply | None = None) -> None:
        self.until = until
        self.otherwise = otherwise


#: What an exchange's ``take_over()`` returns by default: a filter has taken it over, without a time, and answers it in
#: the end. Meanwhile the rest of the request comes in, with the times that an upload has.
HELD: Final = Wait(0.0)


class Again:
    """Let go of this try and begin another one in ``delay`` seconds; ``reason`` is the metric's label. If another
    one is under way beside it, that is waited for instead."""

    __slots__ = ("delay", "reason")

    def __init__(self, delay: float, reason: str) -> None:
        self.delay = delay
        self.reason = reason


class Answer:
    """A whole answer that is no error: a status, fields, a body. Over TCP it ends the connection."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body


class Failed(Reply):
    """The verdict of a hook that has raised: it counts more than those of other filters, trying again included."""

    __slots__ = ()


V = TypeVar("V", bound="Again | Reply | Answer")


def weightier(before: V, verdict: V) -> V:
    """The verdict that counts when filters differ: one that has raised, then trying again, then the first."""
    if isinstance(verdict, Failed) or (isinstance(verdict, Again) and not isinstance(before, Failed)):
        return verdict
    return before


class Site:
    """Where a filter stands: the listener's ``name``, ``direction`` (``inbound`` or ``outbound``) and ``protocol``; its
    ``clock``, in seconds, and the sidecar's random numbers. Settings that did not change keep their filter when the
    configuration is read again. ``stats`` are the listener's, ``counts`` the filter's own; both go on whatever is read.
    ``pairs``: how many connections there are descriptors for, two each. ``breaker_changed`` is to be called with a
    breaker whose state is another. ``budget`` pays for what is sent more than once to the listener's upstream.
    ``shared`` makes a limit that sidecars share, of its rate, burst and key; ``None``: there is no place for those."""

    __slots__ = (
        "breaker_changed", "budget", "clock", "counts", "direction", "name", "pairs", "protocol", "rng", "shared",
        "stats",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        stats: ListenerStats,
        clock: Callable[[], float],
        rng: random.Random,
        counts: dict[str, int],
        pairs: int = 0,
        breaker_changed: Callable[[Any], None] = lambda _: None,
        budget: Budget | None = None,
        shared: Callable[[float, int, str], Any] | None = None,
    ) -> None:
        self.name = name
        self.direction = stats.direction
        self.protocol = stats.protocol
        self.stats = stats
        self.clock = clock
        self.rng = rng
        self.counts = counts
        self.pairs = pairs
        self.breaker_changed = breaker_changed
        self.budget = budget or Budget(inf, 0.0, clock())
        self.shared = shared


@mypyc_attr(allow_interpreted_subclasses=True)
class Filter:
    """The base of all filters. An exchange ``x`` is of either kind (HTTP, TCP); a filter that reads what only one kind
    has, is only put into such chains."""

    #: The name: of its key in the configuration, of its counters, in the admin API.
    name: ClassVar[str] = ""
    #: The codes that it answers with and that no other part has, and their statuses.
    replies: ClassVar[dict[str, int]] = {}
    #: Its settings: a class derived from ``sidecar.config.declared.Settings``; ``None``: it has none to declare.
    settings_class: ClassVar[Any] = None
    #: Of ours: its one setting, in place of a section (a ``sidecar.config.keys.Key``); whether routes may have it, too.
    setting: ClassVar[Any] = None
    routed: ClassVar[bool] = False
    #: What the reference says of its section; empty: the docstring of the settings.
    doc: ClassVar[str] = ""
    #: What it says of its key ``inbound``, ``outbound`` and for a ``route``, where that is something else.
    key_docs: ClassVar[dict[str, str]] = {}
    #: Of ours: with ``off`` in place of the section it does not stand there.
    optional: ClassVar[bool] = True
    #: Of ours: it stands, with its defaults, at ports where its key is left out.
    by_default: ClassVar[bool] = False
    #: Of ours: why its key is refused on the side that it is not for.
    refused: ClassVar[str] = ""
    #: Where it may stand.
    protocols: ClassVar[tuple[str, ...]] = ("http",)
    sides: ClassVar[tuple[str, ...]] = ("inbound", "outbound")
    #: The filter of ours that it stands behind, when it comes from another package.
    after: ClassVar[str] = "rate_limit"
    #: What it counts, by :meth:`count`: name and help text of each metric.
    counters: ClassVar[dict[str, str]] = {}
    #: It remembers something of each exchange, in ``x.state[self.place]``; ``None`` at first.
    stateful: ClassVar[bool] = False

    #: Where it has its state. Set by the assembly.
    place: int = 0
    #: What stands before its hooks (:class:`sidecar.exchange.guard.Guard`), if it comes from another package. Likewise.
    guard: Any = None

    def __init__(self, config: Any = None, site: Site | None = None) -> None:
        """``config``: what was read of its settings. Filters of ours that need other things have constructors of their
        own."""
        self.config = config
        self.site = site

    @classmethod
    def check(cls) -> None:
        """Refuse the class if a chain cannot run it. Raises :class:`FilterError`."""
        check(cls)

    def count(self, counter: str) -> None:
        """One more of those."""
        if self.site is not None:
            self.site.counts[counter] += 1

    def adapt(self, config: Any) -> bool:
        """Go on with other settings, and what it remembers. Return False if another filter has to take its place."""
        return False

    def uses(self, hook: str) -> bool:
        """Whether it needs that hook, which it has, with its present settings."""
        return True

    def patience(self) -> float:
        """The seconds that one try has until the head of its answer, its connection included."""
        return float(ANY)

    def view(self) -> dict[str, Any]:
        """What the admin API shows of it, as JSON can hold it."""
        return {}

    def on_request(self, x: Any) -> Reply | Answer | Wait | None:
        """Once, before the first try. ``None``: continue; else answer this, or wait."""
        return None

    def on_body(self, x: Any, data: bytes) -> Reply | None:
        """HTTP only: more of the request's body has come, as it goes on. ``None``: continue; else answer this, or end
        the answer that has begun."""
        return None

    def on_try(self, x: Any) -> Reply | Answer | None:
        """Before each try. ``None``: continue; else answer this."""
        return None

    def on_late(self, x: Any) -> bool:
        """HTTP only: the first try has no answer at the time ``x.hedge_at``, which a filter has set. True: have a
        second one beside it, on another endpoint."""
        return False

    def on_again(self, x: Any) -> None:
        """A try follows another one: change what is to differ in it."""

    def on_connected(self, x: Any) -> Reply | None:
        """TCP only: the connection to the endpoint stands. ``None``: continue; else end it."""
        return None

    def on_answer(self, x: Any, head: Any) -> Again | Reply | Answer | None:
        """HTTP only: a try has got an answer's head. ``None``: pass it on; else try again, or answer this instead.
        When filters differ, trying again counts most, and then the first one's word."""
        return None

    def on_failure(self, x: Any, kind: str) -> Again | Reply | None:
        """A try will not get an answer. ``None``: answer with the reason; else try again, or answer this instead.
        When filters differ, it is as with :meth:`on_answer`."""
        return None

    def on_upgrade(self, x: Any) -> Reply | None:
        """HTTP only: the upstream agrees to leave HTTP (101). ``None``: continue; else answer this instead."""
        return None

    def on_pace(self, x: Any, head: Any) -> float | None:
        """HTTP only: an answer's head is about to go to the client. The bytes per second at which its body is to
        follow; ``None``: as it comes. When filters differ, the slowest counts."""
        return None

    def on_answer_body(self, x: Any, data: bytes) -> Reply | None:
        """HTTP only: more of the answer's body is about to go to the client. ``None``: continue; else answer this, or
        end the answer that has begun."""
        return None

    def on_reply(self, x: Any, reply: Reply) -> Answer | Wait | None:
        """The sidecar is about to answer this error, and no part of an answer is out. ``None``: continue; else answer
        that instead, or what ``x.take_over()`` returned: the filter takes the exchange over. Filters are asked in the
        reverse order, the last one first: one that stands before others takes what all of them leave."""
        return None

    def on_end(self, x: Any) -> None:
        """Exactly once for each exchange that ran ``on_request``, whatever happened: give back what was taken."""


_HOOKS: Final = (
    "on_request", "on_body", "on_try", "on_late", "on_again", "on_connected", "on_answer", "on_failure", "on_upgrade",
    "on_pace", "on_answer_body", "on_reply", "on_end",
)  # fmt: skip
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FilterError(Exception):
    """A filter's class is not what a chain can run; the text says which, and why."""


def check(filter_class: Any) -> None:
    """Refuse a class with a hook that there is none of, or that takes other arguments: it would be ignored, or fail in
    the middle of traffic. Its codes are entered into the table of errors. Raises :class:`FilterError`."""
    who = f"{filter_class.__module__}.{filter_class.__qualname__}"
    if not issubclass(filter_class, Filter):
        raise FilterError(f"{who} is no subclass of sidecar.exchange.filter.Filter")
    if not _NAME.fullmatch(filter_class.name):
        raise FilterError(f"{who}: name is {filter_class.name!r}; it has to be lower-case letters, digits and _")
    for counter in filter_class.counters:
        if not _NAME.fullmatch(counter):
            raise FilterError(f"{who}: the counter {counter!r} has to be lower-case letters, digits and _")
    for attribute in dir(filter_class):
        if attribute.startswith("on_") and attribute not in _HOOKS:
            raise FilterError(f"{who} has {attribute}, which is no hook; hooks are {', '.join(_HOOKS)}")
    for hook in _HOOKS:
        ours, theirs = getattr(Filter, hook), getattr(filter_class, hook)
        if ours is theirs:
            continue
        if inspect.iscoroutinefunction(theirs):
            raise FilterError(f"{who}.{hook} is a coroutine; hooks are synchronous")
        try:
            wanted, found = inspect.signature(ours), inspect.signature(theirs)
        except ValueError:
            continue  # compiled: then the compiler has compared them
        try:
            found.bind(*wanted.parameters)
        except TypeError as error:
            needed = ", ".join(wanted.parameters)  # without the / and the types that the compiled one has
            raise FilterError(f"{who}.{hook}{found} has to take ({needed})") from error
    for code, status in filter_class.replies.items():
        try:
            declare(code, status)
        except ValueError as error:
            raise FilterError(f"{who}: {error}") from error


FailureHook: TypeAlias = "Callable[[Any, str], Again | Reply | None]"
UpgradeHook: TypeAlias = "Callable[[Any], Reply | None]"
ReplyHook: TypeAlias = "Callable[[Any, Reply], Answer | Wait | None]"
BodyHook: TypeAlias = "Callable[[Any, bytes], Reply | None]"
ConnectedHook: TypeAlias = "Callable[[Any], Reply | None]"
LateHook: TypeAlias = "Callable[[Any], bool]"
AgainHook: TypeAlias = "Callable[[Any], None]"
PaceHook: TypeAlias = "Callable[[Any, Any], float | None]"


class Hook(Filter):
    """Stands in a chain in place of a filter: ``run`` is the hook that it stands there for."""

    def __init__(self, run: Callable[..., Any]) -> None:
        Filter.__init__(self)
        self._run = run

    def on_request(self, x: Any) -> Reply | Answer | Wait | None:
        verdict: Reply | Answer | Wait | None = self._run(x)
        return verdict

    def on_try(self, x: Any) -> Reply | Answer | None:
        verdict: Reply | Answer | None = self._run(x)
        return verdict

    def on_answer(self, x: Any, head: Any) -> Again | Reply | Answer | None:
        verdict: Again | Reply | Answer | None = self._run(x, head)
        return verdict

    def on_end(self, x: Any) -> None:
        self._run(x)


class Chain:
    """The hooks of an ordered list of filters, and the times that every phase of an exchange reads: ``timeout``, and
    ``patience``, the seconds that one try has until the head of its answer. ``keep``: bytes of a request's body that
    are kept, so that it can be sent again. ``delivery``: the chain of stored requests, on a listener that has a place
    for them. ``route``: the paths that it is for, as a glob; empty: any; ``number``: which of its listener's routes
    that is (-1: none), and ``own`` the keys that this route has for itself. ``blank`` is what an exchange's ``state``
    is at first. ``sees_bodies``: answers' bodies do not simply pass, even those that come with their heads.
    ``patient``: an answer that is not there yet, or says that there is no room, is nothing against an endpoint.
    ``repeat``: methods that may be sent again, beside those of the retries."""

    __slots__ = (
        "blank", "delivery", "filters", "keep", "number", "on_again", "on_answer", "on_answer_body", "on_body",
        "on_connected", "on_end", "on_failure", "on_late", "on_pace", "on_reply", "on_request", "on_try", "on_upgrade",
        "own", "patience", "patient", "repeat", "route", "sees_bodies", "timeout",
    )  # fmt: skip

    def __init__(self, filters: Sequence[Filter], timeout: Times, patience: float) -> None:
        self.keep = KEEP
        self.route = ""
        self.delivery: Chain | None = None
        self.number = -1
        self.own: tuple[str, ...] = ()
        self.patient = False
        self.repeat: frozenset[str] = frozenset()
        self.filters = tuple(filters)
        self.blank: list[Any] = [None] * max((f.place + 1 for f in filters if f.stateful), default=0)
        self.timeout = timeout
        self.patience = patience
        #: What every exchange runs through: the filters, as compiled code calls their methods at a tenth of what a hook
        #: takes.
        self.on_request = self._those_with("on_request")
        self.on_try = self._those_with("on_try")
        self.on_answer = self._those_with("on_answer")
        self.on_end = self._those_with("on_end")
        #: What few have: the hooks.
        self.on_body: tuple[BodyHook, ...] = self._hooks("on_body")
        self.on_late: tuple[LateHook, ...] = self._hooks("on_late")
        self.on_again: tuple[AgainHook, ...] = self._hooks("on_again")
        self.on_connected: tuple[ConnectedHook, ...] = self._hooks("on_connected")
        self.on_failure: tuple[FailureHook, ...] = self._hooks("on_failure")
        self.on_upgrade: tuple[UpgradeHook, ...] = self._hooks("on_upgrade")
        self.on_pace: tuple[PaceHook, ...] = self._hooks("on_pace")
        self.on_answer_body: tuple[BodyHook, ...] = self._hooks("on_answer_body")
        self.sees_bodies = bool(self.on_pace or self.on_answer_body)
        self.on_reply: tuple[ReplyHook, ...] = self._hooks("on_reply")[::-1]

    def _having(self, name: str) -> list[Filter]:
        base = getattr(Filter, name)
        return [f for f in self.filters if getattr(type(f), name) is not base and f.uses(name)]

    def _hooks(self, name: str) -> tuple[Any, ...]:
        return tuple([_hook(f, name) for f in self._having(name)])

    def _those_with(self, name: str) -> tuple[Filter, ...]:
        return tuple([f if f.guard is None else Hook(_hook(f, name)) for f in self._having(name)])


def _hook(it: Filter, name: str) -> Any:
    hook = getattr(it, name)
    return hook if it.guard is None else it.guard.hook(name, hook)
