"""The spool of one AMQP port with all that belongs to it: what fills it, what empties it, and what clients are told
from while there is no broker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.credential_cache import CredentialCache
from sidecar.amqp.failover.port import FailoverPort
from sidecar.amqp.monitor.connection import TroubleLog
from sidecar.amqp.publisher.connection import GONE, Publisher
from sidecar.amqp.publisher.connector import Connector
from sidecar.amqp.replay.dispatcher import Dispatcher
from sidecar.amqp.replay.publisher_slot import SaslLogin
from sidecar.amqp.spool.intake import Intake
from sidecar.amqp.spool.lifetimes import Lifetimes
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.shares import Shares
from sidecar.amqp.spool.store import DeadLetters, Spool, StreamCount
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.wire.client_handshake import plain
from sidecar.core.events import EVENTS
from sidecar.storage.errors import SpoolError
from sidecar.storage.json_file import Saving

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import Policy
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.wire.handshake import Handshake
    from sidecar.core.amqp_settings import Amqp, AmqpSpool
    from sidecar.net.wheel import TimerWheel

logger = logging.getLogger("sidecar.amqp.spool")

#: Seconds between two looks for dead letters that are too old.
_SWEEP: Final = 3600.0
#: Once one client has its broker again, the seconds for which the sidecar's own connections wait for the others.
_CLIENTS_FIRST: Final = 30.0
#: Logins of clients that are remembered, so that what they left behind can be sent after they have gone.
_MOST_LOGINS: Final = 1000
#: In the end, seconds for a disk that does not work to do so again, if something is held; and between two looks.
_LAST: Final = 5.0
_STEP: Final = 0.01
_UNBOUNDED: Final = 1 << 62
#: Seconds between two lines about clients that are not known.
_QUIET: Final = 60.0


class StoreAndForward(FailoverPort):
    """The spool of one port with all that fills and empties it. Raises :class:`SpoolError` when the folder cannot be
    used. Implements :class:`sidecar.amqp.views.protocols.SpoolView`."""

    #: There was a broker when that was last looked at.
    _there: bool = True

    def __init__(
        self,
        name: str,
        config: Amqp,
        settings: AmqpSpool,
        *,
        stats: AmqpStats,
        scheduler: Scheduler,
        policy: Policy,
        addresses: Callable[[], Sequence[tuple[str, int]]],
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
        clock: Callable[[], float],
        on_alarm: Callable[[bool], None],
        tracing: MessageTracing,
    ) -> None:
        path = self._path = Path(settings.path)
        self._name = name
        self._config = config
        self._stats = stats
        self._clock = clock
        #: For each session that looks for a broker, what to call when another one has found it; and since when one of
        #: those that did, or of newcomers, has (inf: none).
        self._searching: set[Callable[[], None]] = set()
        self._found = inf
        #: Connections of our own that wait for those of clients.
        self._late: list[Publisher] = []
        self._swept = -_SWEEP
        self._said_unknown = -_QUIET
        #: When a client last found no broker (the loop's time).
        self.missed = -1e9
        self._sweeping: asyncio.Task[None] | None = None
        #: (virtual host, user) → how that user logs in.
        self._logins: dict[tuple[str, str], SaslLogin] = {}
        self.spool = Spool(path, name, settings.max_bytes, loop, time.time)
        shares = Shares(self.spool, self._moves, time.time)
        self.intake = Intake(settings, self.spool, stats, time.time, Lifetimes(policy.bindings), shares)
        self.catalog = BrokerCatalog(path / f"{name}.known.json")
        self.credential_cache = CredentialCache(path / f"{name}.credential_cache.json", config.credentials)
        self._saving = Saving([self.catalog, self.credential_cache])
        self._connector = Connector(addresses, loop)
        self._dispatcher = Dispatcher(
            name,
            self.spool,
            scheduler,
            policy.routes,
            self.login,
            self._connect,
            wheel,
            clock,
            time.time,
            loop.call_soon,
            TroubleLog(name, clock),
            settings.window,
            config.dead_letters.after,
        )
        self._tracing = tracing
        self._join(on_alarm)

    def _join(self, on_alarm: Callable[[bool], None]) -> None:
        """Have the parts tell each other what concerns them."""
        self.intake.tracing = self._tracing
        self._dispatcher.on_settled = self._settled
        self._dispatcher.tell_of_dead(self._leaves)
        self._dispatcher.on_alarm = on_alarm
        self.intake.on_added = self._dispatcher.added
        self.spool.on_room = self.intake.room
        self.spool.on_revived = self._dispatcher.look

    def start(self) -> None:
        """Read what is there, and begin to send it. Raises :class:`SpoolError`."""
        self.spool.open()
        self.catalog.load()
        self.credential_cache.load()
        self._saving.start()
        self._dispatcher.start()
        if self.spool.messages:
            logger.info(
                "there are messages in the spool", extra={"upstream": self._name, "messages": self.spool.messages}
            )

    async def close(self) -> None:
        """Write what is on its way to the disk, and what was held for room in the spool, and end."""
        await self._dispatcher.close()
        await self._store_held()
        self._connector.close()
        await self.credential_cache.close()
        await self._saving.close()
        await self.spool.close()
        if self.spool.messages:
            logger.warning(
                "messages stay in the spool, and are sent when the upstream is there again",
                extra={"upstream": self._name, "messages": self.spool.messages, "path": str(self._path)},
            )

    async def _store_held(self) -> None:
        """What is held has nowhere else to go: it is stored whatever ``max_bytes`` says, as ``scheduler`` bounds it
        too. A slow disk has the time that it takes, as for what is on its way there; what comes back from one that
        does not work is tried again, until that has stored nothing more for :data:`_LAST`."""
        intake, spool = self.intake, self.spool
        if not intake.held and not spool.storing:
            return
        spool.max_bytes = _UNBOUNDED
        least = intake.held + spool.storing
        left = _LAST
        while (intake.held or spool.storing) and left > 0:
            if not spool.storing or not spool.full:  # else it says itself when there is room
                intake.room()
                intake.look()
            await asyncio.sleep(_STEP)
            if intake.held + spool.storing < least:
                least = intake.held + spool.storing
                left = _LAST
            elif not spool.storing:
                left -= _STEP
        if intake.held:
            logger.error(
                "messages are lost that were held, as the spool cannot store them",
                extra={"upstream": self._name, "messages": intake.held, "reason": spool.problem},
            )

    def configure(self, config: Amqp) -> None:
        """Another configuration; the folder is the same."""
        self._config = config
        self.credential_cache.credentials = config.credentials
        settings = config.spool
        if settings is not None:
            self.intake.settings = settings
            self.spool.resize(settings.max_bytes)
            self._dispatcher.configure(settings.window, config.dead_letters.after)
            self._dispatcher.logins_changed()

    def look(self) -> None:
        """Now and then: what has no event of its own."""
        spool = self.spool
        self._connect_late()
        spool.look()
        full = self.intake.full
        if full.closed and not spool.full and not spool.problem:
            self.intake.room()
        elif full.closed and full.waiting:
            full.changed()  # some may go past the spool by now
        self.intake.look()
        now = self._clock()
        if now - self._swept >= _SWEEP and (self._sweeping is None or self._sweeping.done()):
            self._swept = now
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            gone = await self.spool.dead_letters.expire(time.time() - self._config.dead_letters.keep)
        except SpoolError as error:
            logger.warning("dead letters that are too old cannot be dropped: %s", error.text)
            return
        if gone:
            logger.info("dead letters were dropped because of their age", extra={"messages": gone})

    # -- logins --------------------------------------------------------------------------------------------------------

    def met(self, handshake: Handshake) -> None:
        """The broker has let a client in."""
        self._broker(True)
        self.vouched(handshake)
        if self._searching:
            self._found = min(self._found, self._clock())
        self._dispatcher.broker_is_back()
        self.seen(handshake)

    def vouched(self, handshake: Handshake) -> None:
        """A client's login is good: the broker says so, or has said so before of the very same one. What the client
        publishes is sent with it."""
        key = (handshake.vhost, handshake.identity)
        known = self._logins.pop(key, None)
        self._logins[key] = SaslLogin(handshake.mechanism, handshake.response)
        if len(self._logins) > _MOST_LOGINS:
            del self._logins[next(iter(self._logins))]
        if known is None or known.response != handshake.response:
            self._dispatcher.logins_changed()

    def not_known(self, user: str, what: str) -> None:
        """A client cannot be let in before there is a broker. Said once in a while, as it comes again and again."""
        now = self._clock()
        if now - self._said_unknown >= _QUIET:
            self._said_unknown = now
            logger.warning(
                "there is no broker, and some clients are refused until there is: none has let them in before",
                extra={"upstream": self._name, "user": user, "unknown": what},
            )

    def seen(self, handshake: Handshake) -> None:
        """The broker has it in until now."""
        self.credential_cache.accepted(handshake.mechanism, handshake.response, handshake.vhost)

    # -- the way back --------------------------------------------------------------------------------------------------

    def searches(self, hurry: Callable[[], None]) -> None:
        """A client has no broker, and looks for one."""
        self._broker(False)
        self._searching.add(hurry)
        self._found = inf

    def reached(self, hurry: Callable[[], None]) -> None:
        """It has found one: the others need not wait for their next try."""
        self._broker(True)
        self._found = min(self._found, self._clock())
        for other in self._searching:
            if other != hurry:
                other()

    def _broker(self, there: bool) -> None:
        """Whether clients have a broker: told when that changes, however many of them notice."""
        if there != self._there:
            self._there = there
            text = "there is a broker again" if there else "there is no broker; what is published goes to the spool"
            EVENTS.tell(
                logger, logging.INFO if there else logging.WARNING, "broker", f"{self._name}: {text}", self._name,
                up=there,
            )  # fmt: skip

    def left(self, hurry: Callable[[], None]) -> None:
        """It looks no longer, as it has all that it had, or its client has gone."""
        self._searching.discard(hurry)
        if not self._searching:
            self._connect_late()

    def broker_is_back(self) -> None:
        """A client has just reached it again."""
        self._dispatcher.broker_is_back()

    def _connect(self, publisher: Publisher) -> None:
        """Clients first: queues that live and die with them have to be there again before what was meant for them."""
        self._late.append(publisher)
        self._connect_late()

    def _connect_late(self) -> None:
        if self._searching and self._clock() < self._found + _CLIENTS_FIRST:
            return
        late, self._late = self._late, []
        for publisher in late:
            if publisher.stage != GONE:  # it may have given up waiting
                self._connector.connect(publisher)

    def login(self, vhost: str, user: str) -> SaslLogin | None:
        """How to log in as that user (empty: as whoever may)."""
        own = self._config.credentials
        if own is not None and user in ("", own.username):
            return SaslLogin("PLAIN", plain(own.username, own.password.reveal()))
        found = self._logins.get((vhost, user))
        if found is None and not user:
            for (where, _), login in self._logins.items():
                if where == vhost:
                    found = login
        return found

    def _settled(self, messages: list[SpooledMessage], delivered: bool) -> None:
        if delivered:
            self.intake.delivered(messages)
            if self._tracing.recording:
                for message in messages:
                    self._leaves(message, "")
        else:
            for message in messages:
                self.intake.died(message)

    def _leaves(self, message: SpooledMessage, error: str) -> None:
        """It leaves the spool: a span of its time there, if one is wanted. ``error``: as a dead letter, and why."""
        tried = message.attempts if error else message.attempts + 1
        self._tracing.replayed(message.header, message.exchange, message.routing_key, message.at, tried, error)

    def _moves(self) -> bool:
        """The broker is there, as far as clients know, and takes messages."""
        return not self._searching and not self._stats.blocked

    # -- what the admin API sees ---------------------------------------------------------------------------------------

    @property
    def messages(self) -> int:
        return self.spool.messages

    @property
    def bytes(self) -> int:
        return self.spool.bytes

    @property
    def max_bytes(self) -> int:
        return self.spool.max_bytes

    @property
    def full(self) -> bool:
        return self.spool.full

    @property
    def problem(self) -> str:
        return self.spool.problem

    @property
    def keys(self) -> Mapping[tuple[str, str], StreamCount]:
        return self.spool.streams

    @property
    def still(self) -> float:
        return self.spool.still

    @property
    def parked(self) -> int:
        return self._dispatcher.stats.parked

    @property
    def obstacles(self) -> Sequence[tuple[str, str, str]]:
        return self._dispatcher.problems

    @property
    def spooled(self) -> int:
        return self._stats.spooled

    @property
    def replayed(self) -> int:
        return self._dispatcher.stats.replayed

    @property
    def expired(self) -> int:
        return self._dispatcher.stats.expired

    @property
    def corrupt(self) -> int:
        return self.spool.corrupt

    @property
    def acks(self) -> Mapping[str, int]:
        return {"broker": self._stats.acks_by_broker, "spool": self._stats.acks_by_spool}

    @property
    def dead_letters(self) -> DeadLetters:
        return self.spool.dead_letters
