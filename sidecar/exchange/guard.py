"""Keeps what goes wrong in a filter of another package within the exchange that it goes wrong in."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecar.core.replies import STATUS, Reply
from sidecar.exchange.filter import HELD, Again, Answer, Failed, Filter, Site, Wait

logger = logging.getLogger("sidecar.filters")

#: Seconds between two lines about the same filter of a listener. Those in between are only counted.
QUIET_SECONDS: Final = 10.0
#: What each hook may return, beside ``None``. What ``on_end`` returns is of no account.
VERDICTS: Final[Mapping[str, tuple[type, ...]]] = {
    "on_request": (Reply, Answer, Wait),
    "on_body": (Reply,),
    "on_try": (Reply, Answer),
    "on_late": (bool,),
    "on_again": (),
    "on_connected": (Reply,),
    "on_answer": (Again, Reply, Answer),
    "on_failure": (Again, Reply),
    "on_upgrade": (Reply,),
    "on_pace": (float, int),
    "on_answer_body": (Reply,),
    "on_reply": (Answer, Wait),
    "on_end": (object,),
}
#: Where an exchange is over, or about to be, with an answer that stands.
_OVER: Final = ("on_pace", "on_reply", "on_end")
_FIELD: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BREAKS: Final = re.compile(r"[\r\n\0]")
#: Fields about framing are the sidecar's.
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding"})


class Guard:
    """Stands before the hooks of a listener's filters of one ``name``. A hook that raises, or returns what it may not,
    makes its exchange end with ``filter_failed``; the other filters run as ever. ``failures`` counts, by hook."""

    def __init__(self, name: str, site: Site, failures: dict[str, int]) -> None:
        self._name = name
        self._site = site
        self._failures = failures
        #: When the next line may be written, and how many failures none was written about.
        self._quiet_until = -math.inf
        self._untold = 0

    def hook(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """The same hook, guarded."""
        allowed = VERDICTS[name]
        instead = None if name in _OVER else Failed("filter_failed", f"the filter {self._name} failed")

        def guarded(*args: Any) -> Any:
            try:
                verdict = run(*args)
                if verdict is not None:
                    _check(name, verdict, allowed)
            except Exception as error:
                self.failed(name, error)
                return instead
            return verdict

        return guarded

    def view(self, show: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        """The same view, guarded: empty when it fails, or is nothing that JSON can hold."""

        def guarded() -> dict[str, Any]:
            try:
                shown = show()
                if not isinstance(shown, dict):
                    raise TypeError(f"a view is a dictionary, not {type(shown).__name__}")
                json.dumps(shown, allow_nan=False)
            except Exception as error:
                self.failed("view", error)
                return {}
            return shown

        return guarded

    def failed(self, hook: str, error: Exception) -> None:
        """Count it, and log it with its traceback, unless that was done a moment ago."""
        self._failures[hook] = self._failures.get(hook, 0) + 1
        now = self._site.clock()
        if now < self._quiet_until:
            self._untold += 1
            return
        self._quiet_until = now + QUIET_SECONDS
        untold, self._untold = self._untold, 0
        logger.error(
            "a filter of another package failed",
            exc_info=error,
            extra={
                "filter": self._name,
                "hook": hook,
                "direction": self._site.direction,
                "upstream": self._site.name,
                "more_since_the_last_line": untold,
            },
        )


def unmade(filter_class: Any) -> Filter:
    """What stands in for a filter whose constructor has raised: it lets nothing pass."""

    def on_request(self: Any, x: Any) -> None:
        raise RuntimeError("the filter could not be made; see the error of its __init__")

    members = {"name": filter_class.name, "after": filter_class.after, "on_request": on_request}
    stand_in: Filter = type("Unmade", (Filter,), members)()
    return stand_in


def _check(hook: str, verdict: object, allowed: tuple[type, ...]) -> None:
    """Refuse what could not be carried out. Raises :class:`TypeError` or :class:`ValueError`."""
    if not isinstance(verdict, allowed):
        names = ", ".join(it.__name__ for it in allowed)
        raise TypeError(f"{hook} returned {type(verdict).__name__}; it may return None, {names}")
    if isinstance(verdict, float | int) and hook == "on_pace":
        if not math.isfinite(verdict) or verdict <= 0:
            raise ValueError(f"on_pace returned {verdict!r}, which is no number of bytes per second")
    elif isinstance(verdict, Reply):
        _check_reply(verdict)
    elif isinstance(verdict, Answer):
        _check_answer(verdict)
    elif isinstance(verdict, Wait):
        _check_seconds("Wait's until", verdict.until)
        if verdict.otherwise is not None:
            _check_reply(verdict.otherwise)
        if hook == "on_reply" and verdict is not HELD:
            raise ValueError("on_reply may only return the Wait that take_over() returned")
    elif isinstance(verdict, Again):
        _check_seconds("Again's delay", verdict.delay)
        if not isinstance(verdict.reason, str):
            raise TypeError("Again's reason is a string")


def _check_reply(reply: Reply) -> None:
    if reply.code not in STATUS:
        raise ValueError(f"there is no code {reply.code!r}: a filter's own ones stand in its replies")
    reply.message.encode()
    if reply.retry_after is not None:
        _check_seconds("Reply's retry_after", reply.retry_after)


def _check_seconds(what: str, value: object) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, which is no number of seconds")


def _check_answer(answer: Answer) -> None:
    if not isinstance(answer.status, int) or not 200 <= answer.status < 600:
        raise ValueError(f"an Answer's status is 200 to 599, not {answer.status!r}")
    if not isinstance(answer.body, bytes):
        raise TypeError(f"an Answer's body is bytes, not {type(answer.body).__name__}")
    for name, value in answer.fields:
        if not _FIELD.fullmatch(name) or name.lower() in _FRAMING:
            raise ValueError(f"an Answer cannot have a field {name!r}")
        if _BREAKS.search(value):
            raise ValueError(f"the value of an Answer's field {name} has a line break or a NUL")
        value.encode("latin-1")
