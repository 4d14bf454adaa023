"""Spans on their way to a collector: a bounded queue, and the thread that empties it.

The hot path appends a tuple. The thread encodes a few of them at a time (:mod:`sidecar.telemetry.otlp`) and posts them
(:mod:`sidecar.telemetry.otlp_http`). While it encodes, the event loop has to wait for the interpreter's lock; so it
takes :data:`BATCH` spans at a go, a millisecond's work, and rests after each. A collector that is away costs spans,
which are counted, and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.telemetry import otel_environment, otlp
from sidecar.telemetry.otlp_http import Answer, CollectorClient, CollectorError
from sidecar.telemetry.span_metrics import REASONS

logger = logging.getLogger("sidecar.spans")

#: Spans that wait, at most; how many are sent at once; how often the queue is looked at, and the rest between two
#: sendings, seconds.
QUEUE: Final = 4096
BATCH: Final = 64
INTERVAL: Final = 1.0
BREATH: Final = 0.01
#: How long one request to the collector may take, how long the end waits for the last one, and how long a collector may
#: have us wait before the same spans are sent once more, seconds.
SEND_SECONDS: Final = 1.5
FLUSH_SECONDS: Final = 2.0
MOST_RETRY_AFTER: Final = 5.0
#: Statuses after which the same may be sent again (OTLP's specification, "Retryable Response Codes").
_AGAIN: Final = frozenset({429, 502, 503, 504})


class SpanExporter:
    """Sends spans of an instance of a service to the collector at ``url``."""

    def __init__(self, url: str, service: str, instance: str) -> None:
        given = otel_environment.resource_attributes(os.environ)
        own = {"service.name": service, "service.instance.id": instance, "sidecar.version": __version__}
        if name := otel_environment.service_name(os.environ):
            own["service.name"] = name
        self._resource = otlp.attributes(given | own)
        self._client = CollectorClient(url, otel_environment.headers(os.environ))
        self._waiting: deque[SpanRecord] = deque()
        #: Spans that were delivered; of the others, how many for which reason. ``queue_full`` is written by the event
        #: loop, ``ended`` by :meth:`close`, the others by the thread.
        self.sent = 0
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        #: What the collector has last done with spans, if it is not what it should.
        self._trouble = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span exporter", daemon=True)
        self._thread.start()

    def record(self, span: SpanRecord) -> None:
        """Queue a span; never blocks."""
        if len(self._waiting) >= QUEUE:
            self.dropped["queue_full"] += 1
        else:
            self._waiting.append(span)

    def close(self) -> None:
        """Send what is queued, for at most :data:`FLUSH_SECONDS`; what could not be sent counts as dropped."""
        self._ending.set()
        self._thread.join(FLUSH_SECONDS)
        self.dropped["ended"] += len(self._waiting)
        self._waiting.clear()

    def _run(self) -> None:
        while not self._ending.wait(INTERVAL):
            self._flush()
        if self._trouble in ("", "rejected"):  # a collector that is away must not hold up the end
            self._flush()
        self._client.close()

    def _flush(self) -> None:
        waiting = self._waiting
        while waiting:
            batch: list[SpanRecord] = []
            while waiting and len(batch) < BATCH:
                try:
                    batch.append(waiting.popleft())
                except IndexError:  # cleared by the end
                    break
            if not self._deliver(batch):
                return  # the others wait: the collector may be there again at the next look
            self._ending.wait(BREATH)

    def _deliver(self, batch: Sequence[SpanRecord]) -> bool:
        """Send these, count them, and say what has become of the collector, if that has changed; whether the next may
        be sent at once."""
        try:
            body = otlp.encode(batch, self._resource)
            answer = self._post(body)
        except CollectorError as error:
            self._lost(batch, "unreachable", str(error))
            return False
        except Exception as error:  # a fault of ours must not end the thread
            logger.debug("spans could not be sent", exc_info=True)
            self._lost(batch, "unreachable", type(error).__name__)
            return False
        if not 200 <= answer.status < 300:
            self._lost(batch, "refused", f"it answered {answer.status}")
            return answer.status not in _AGAIN
        count, why = otlp.rejected(answer.body, len(batch))
        self.sent += len(batch) - count
        self.dropped["rejected"] += count
        if count:
            self._tell(
                "rejected", "the trace collector does not take some of the spans: %s", why or "it gives no reason"
            )
        else:
            self._tell("", "the trace collector takes spans again")
        return True

    def _post(self, body: bytes) -> Answer:
        answer = self._client.post(body, SEND_SECONDS)
        if answer.status in _AGAIN and not self._trouble and not self._ending.is_set():
            pause = INTERVAL if answer.retry_after is None else answer.retry_after
            if pause <= MOST_RETRY_AFTER and not self._ending.wait(pause):
                return self._client.post(body, SEND_SECONDS)
        return answer

    def _lost(self, batch: Sequence[SpanRecord], reason: str, why: str) -> None:
        self.dropped[reason] += len(batch)
        self._tell(reason, "spans are dropped: the trace collector does not take them: %s", why)

    def _tell(self, trouble: str, text: str, *why: str) -> None:
        """Log a change, once."""
        before, self._trouble = self._trouble, trouble
        if trouble != before:
            level = logging.WARNING if trouble else logging.INFO
            logger.log(level, text, *why, extra={"dropped": sum(self.dropped.values())})
