"""The messages of one channel: which may be sent now, which are on their way, and which one the broker meant when it
closed the channel.

It does not say which (AMQP 0-9-1, ``channel.close``: a code, a text, the method). Sometimes the text names the
exchange; then the messages to that exchange are sent again one by one, in order, and the one that does it again is the
one. Where a text says nothing, that is done with all of them. Whatever the broker had taken of them without saying so
is there twice then, but never more than was on its way.

What goes one by one goes over a channel of its own, so that others have nothing to do with it; where there can be no
other channel, there is nothing else on the one while it is not known who did it (``wary``).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from sidecar.amqp.publisher.exchange_checks import LONGEST_CHECK, ExchangeChecks, exchange_in
from sidecar.amqp.publisher.probe_channel import ProbeChannel
from sidecar.amqp.publisher.unconfirmed import Sent, Unconfirmed
from sidecar.amqp.wire.constants import ACCESS_REFUSED, BASIC_PUBLISH, NOT_FOUND

#: So much is collected before it is written, when more may come in the same turn of the loop.
_AT_ONCE: Final = 65_536
#: So often in a row the channel may be closed without anything having been answered on it, or for no reason that has to
#: do with what was sent.
_MOST_CLOSES: Final = 3

#: Closes of the channel that are about an exchange, which their text names.
_NAMING: Final = (ACCESS_REFUSED, NOT_FOUND)


class SendQueue:
    """``write`` sends bytes. ``wary``: so many messages have to be answered before there may be more than one on its
    way. ``looks``: exchanges are looked for before they are first used."""

    __slots__ = (
        "_call_soon", "_closes", "_flushing", "_out", "_queue", "_size", "_strikes", "_write", "exchanges", "open",
        "probe", "unconfirmed", "wary",
    )  # fmt: skip

    def __init__(
        self,
        write: Callable[[bytes], None],
        call_soon: Callable[[Callable[[], None]], object],
        wary: int,
        looks: bool,
    ) -> None:
        self._write = write
        self._call_soon = call_soon
        #: The channel is there.
        self.open = False
        self.wary = wary
        self.exchanges = ExchangeChecks(looks)
        self.unconfirmed = Unconfirmed()
        self.probe = ProbeChannel()
        #: What waits for the channel, or, while we are wary, for its turn.
        self._queue: deque[Sent] = deque()
        #: How many were no good since we were last wary of nothing.
        self._strikes = 0
        #: How often in a row the channel was closed to no purpose.
        self._closes = 0
        #: What is to be written.
        self._out: list[bytes] = []
        self._size = 0
        self._flushing = False

    def send(self, sent: Sent) -> None:
        """Send it when its turn has come."""
        if not self.open or self.wary or self._queue:
            self._queue.append(sent)
            if self.open:
                self._go_on()
        else:
            self._offer(sent)

    def recall(self, exchange: bytes) -> list[Sent]:
        """Take back what is for that exchange and waits here, in order."""
        taken = self.exchanges.recall(exchange)
        if self._queue:
            taken.extend([sent for sent in self._queue if sent.exchange() == exchange])
            self._queue = deque([sent for sent in self._queue if sent.exchange() != exchange])
        return taken

    def flush(self) -> None:
        """Write what has been collected."""
        self._flushing = False
        exchanges = self.exchanges
        if exchanges.busy and self.open:
            self._write(exchanges.passive_declare.frames())
            if exchanges.apart and not self.wary and self.probe.sent is None:
                sent = exchanges.next()
                if sent is not None:
                    self._write(self.probe.frames(sent))
        out = self._out
        if out:
            self._out = []
            self._size = 0
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def opened(self) -> None:
        """The channel is there (again)."""
        self.open = True
        self._go_on()

    def look(self) -> None:
        """The broker has said something: what it was may let others go."""
        if self.open and (self._queue or self.exchanges.busy):
            self._go_on()

    @property
    def on_way(self) -> int:
        """How many were sent and not answered."""
        return self.unconfirmed.count + (self.probe.sent is not None)

    def take_one(self) -> Sent:
        """The only one of these."""
        return self.probe.answered() or self.unconfirmed.take_all()[0]

    def take_all(self) -> list[Sent]:
        """The end: what has no answer, what was sent first."""
        self.open = False
        tried = self.probe.closed()
        left = self.unconfirmed.take_all() + ([] if tried is None else [tried])
        left += self.exchanges.take_all() + list(self._queue)
        self._queue.clear()
        self._out.clear()
        return left

    def _offer(self, sent: Sent) -> None:
        """Its turn has come, but for doubts about its exchange."""
        if not self.exchanges.holds(sent):
            self._put(sent)
        elif not self._flushing:
            self._flushing = True
            self._call_soon(self.flush)

    def _put(self, sent: Sent) -> None:
        self.unconfirmed.add(sent)
        frames = sent.frames
        self._out.append(frames)
        self._size += len(frames)
        if self._size >= _AT_ONCE:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._call_soon(self.flush)

    def _go_on(self) -> None:
        """Send of what waits what may go."""
        queue = self._queue
        if self.exchanges.busy:
            free = self.exchanges.free(self.wary > 0)
            if self.wary:
                queue.extendleft(reversed(free))
            else:
                for sent in free:
                    self._put(sent)
        while queue and not (self.wary and self.unconfirmed.count):
            self._offer(queue.popleft())
        self.flush()

    # -- answers -------------------------------------------------------------------------------------------------------

    def settle(self, number: int, multiple: bool) -> list[Sent]:
        """The broker has answered: whom."""
        answered = self.unconfirmed.settle(number, multiple)
        if answered:
            self._closes = 0
            if self.wary:
                self.wary = max(0, self.wary - len(answered))
                if not self.wary:
                    self._strikes = 0
            if self.exchanges.checks:
                for sent in answered:
                    self.exchanges.answered(sent)
        return answered

    def tried(self) -> Sent | None:
        """The broker has answered the one that went apart."""
        sent = self.probe.answered()
        if sent is not None:
            self._closes = 0
            self.exchanges.answered(sent)
        return sent

    @property
    def hopeless(self) -> bool:
        """The channel is closed whatever we do."""
        return self._closes > _MOST_CLOSES

    def closed(self, code: int, text: str, cause: int) -> Sent | None:
        """The broker has closed the channel. The message because of which it has, if that is clear; all others that
        were on their way are sent again when the channel is open."""
        self.open = False
        left = self.unconfirmed.take_all()
        self._out.clear()
        self._size = 0
        self._closes += 1
        guilty: Sent | None = None
        if cause == BASIC_PUBLISH and left and not self.hopeless:
            guilty = self._blame(left, code, text)
        self._queue.extendleft(reversed(self.exchanges.put_back(left, guilty, self.wary > 0)))
        return guilty

    def probe_closed(self, code: int, cause: int) -> Sent | None:
        """The broker has closed the channel apart: because of this message, if it was because of one."""
        sent = self.probe.closed()
        if sent is None:
            return None
        if cause != BASIC_PUBLISH:
            self._closes += 1
            self.exchanges.again(sent)
            return None
        self.exchanges.strike(sent)
        if code == NOT_FOUND:
            self.exchanges.vanished(sent.exchange())
        return sent

    def _blame(self, left: list[Sent], code: int, text: str) -> Sent | None:
        """One of those on their way is no good. Which one, if that is clear; else they are sent one by one from now on:
        those to the exchange that the text names, or all."""
        exchanges = self.exchanges
        named = exchange_in(text) if code in _NAMING else None
        suspects = [sent for sent in left if sent.exchange() == named] if named is not None else []
        if not suspects:
            named = None
            suspects = left
        guilty = suspects[0] if len(suspects) == 1 else None
        if guilty is not None or named is not None:
            self._closes = 0  # we know more than before
        if not self.wary and (named or exchanges.apart):
            self._closes = 0  # the others go apart
            if guilty is not None:
                exchanges.strike(guilty)
            else:
                for lane, count in Counter([sent.lane() for sent in suspects]).items():
                    exchanges.suspect(lane, count)
        elif guilty is not None:
            # As with exchanges: each one makes for twice as many answers until there may be many on their way again.
            self.wary = max(self.wary, min(1 << self._strikes, LONGEST_CHECK))
            self._strikes = min(self._strikes + 1, 16)
        else:
            self.wary = max(self.wary, len(left))
        if named is not None and code == NOT_FOUND:
            exchanges.vanished(named)
        return guilty
