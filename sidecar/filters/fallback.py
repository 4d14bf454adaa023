"""Answers in place of an upstream that cannot: from another upstream, from what it said before, or with a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.config.declared import section
from sidecar.config.fallback import AnswerSettings, Steps, StepSettings
from sidecar.config.keys import Key
from sidecar.core.replies import STATUS, ProtocolError, Reply
from sidecar.exchange.filter import HELD, KEEP, Answer, Filter, Site, Wait
from sidecar.exchange.phases import PENDING
from sidecar.exchange.tries import STALLED
from sidecar.filters.wait import give_back

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request

#: The field of an answer that a step has given: its number, from 1.
FIELD: Final = "x-sidecar-fallback"


class Course:
    """How far the steps of one exchange are. ``reply`` is the answer that it would have got; ``code`` and ``status``
    are what steps go by; ``at`` is the number of the step that was looked at last. ``over``: no step is left."""

    __slots__ = ("at", "cancel", "code", "coming", "over", "reply", "status", "told")

    def __init__(self, reply: Reply, code: str, status: int) -> None:
        self.reply = reply
        self.code = code
        self.status = status
        self.at = 0
        self.over = False
        #: Ends what goes on at another upstream.
        self.cancel: Callable[[], None] | None = None
        #: The step waits for the rest of the request's body.
        self.coming = False
        #: What is said of steps that could not answer.
        self.told: list[str] = []


#: The state of an exchange that has come by, and that nothing has happened to.
_FINE: Final = True


class Fallback(Filter):
    """Takes the first step whose ``on`` matches and that can answer. Stands before all that may refuse, and is asked
    after all of them: after ``retry`` has given up, and ``wait``. What fails is a failure for the breaker all the
    same.

    A step that sends the request elsewhere needs the whole of it at hand; the answer may then come or not, and if it
    does not, the next step is looked at.
    """

    name: ClassVar[str] = "fallback"
    stateful: ClassVar[bool] = True
    setting: ClassVar[Any] = Key(
        Steps(section(StepSettings), minimum=1, maximum=16),
        "What answers in place of the upstream: the first step whose on matches and that can.",
        [
            {"on": ["circuit_open", "no_endpoints", "5xx"], "upstream": "simple-tasks"},
            {"on": ["circuit_open", "no_endpoints"], "stale": "1h"},
        ],
    )
    routed: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: who calls this service knows what to do without it"

    #: Sends a request to the upstream of that name (:func:`sidecar.http.detour.detour`), and keeps good answers
    #: (:class:`sidecar.http.stale.Keeper`). Set by the assembly.
    detour: Any = None
    keeper: Any = None

    def __init__(self, config: Sequence[StepSettings], site: Site) -> None:
        super().__init__(config, site)
        self._stats = site.stats
        self._read(config)

    def _read(self, config: Sequence[StepSettings]) -> None:
        self.config = config
        self._steps = tuple(config)
        #: Whether a step answers with what was said before.
        self.remembers = any(it.stale for it in config)
        self._answers = [_static(n, it.answer) for n, it in enumerate(config, 1)]

    def adapt(self, config: Sequence[StepSettings]) -> bool:
        """Other steps, for what fails from now on. What the upstream has said stays known."""
        self._read(config)
        return True

    def view(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"steps": [_told(it) for it in self._steps], "answered": self._answered()}
        return shown | ({"stale": self.keeper.view()} if self.keeper is not None else {})

    def _answered(self) -> dict[str, int]:
        return {str(step): n for step, n in sorted(self._stats.fallbacks.items())}

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_request(self, x: Request) -> None:
        x.state[self.place] = _FINE  # what stands before this refuses for reasons of its own

    def on_answer(self, x: Request, head: ResponseHead) -> Reply | None:
        """A bad answer is no answer, if a step has a better one."""
        status = head.status
        if status < 400 or x.state[self.place] is None:
            return None
        peer = head.peer_error.decode("latin-1")
        if peer not in STATUS:
            peer = ""
        if not any(it.matches(peer, status) and self._can(x, it) for it in self._steps):
            return None
        name = x.listener.name
        if peer and STATUS[peer] == status:
            reply = Reply(peer, f"the sidecar of {name} says: {peer}")
        else:
            reply = Reply("bad_upstream", f"{name} answered {status}")
        x.state[self.place] = Course(reply, peer, status)
        return reply

    def on_reply(self, x: Request, reply: Reply) -> Answer | Wait | None:
        course: Any = x.state[self.place]
        if course is None or reply.message == STALLED:
            return None
        if not isinstance(course, Course) or (course.reply is not reply and not course.at):
            course = x.state[self.place] = Course(reply, reply.code, reply.status)
        elif course.reply is not reply:
            course.over = True  # meanwhile something is wrong with the request itself
            self._stop(course)
        return None if course.over else self._next(x, course)

    def on_body(self, x: Request, data: bytes) -> None:
        course: Any = x.state[self.place]
        if isinstance(course, Course) and course.coming:
            if x.request_done:
                course.coming = False
                self._depart(x, course)
            elif x.kept_size > KEEP:
                course.coming = False
                # From the event loop: the client's connection is in the middle of reading.
                x.listener.loop.call_soon(self._failed, x, course, "its body is too large to be sent again")

    def on_end(self, x: Request) -> None:
        course: Any = x.state[self.place]
        if isinstance(course, Course):
            course.over = True
            self._stop(course)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _next(self, x: Request, course: Course) -> Answer | Wait | None:
        """Take the next step that matches and can answer; ``None``: there is none."""
        while course.at < len(self._steps):
            step = self._steps[course.at]
            course.at += 1
            if not step.matches(course.code, course.status):
                continue
            if step.upstream:
                if self._can(x, step):
                    give_back(x)  # its slot is for those who go to this upstream
                    held = x.take_over()
                    if x.phase == PENDING:  # else its time was over
                        self._leave_for(x, course)
                    return held
                course.told.append(f"{step.upstream}: the request is not at hand any more")
                continue
            answer = self._answers[course.at - 1]
            if step.stale and self.keeper is not None:
                answer = self.keeper.find(x, step.stale, ((FIELD, str(course.at)),))
                if answer is None:
                    course.told.append("stale: nothing is kept that may be used")
            if answer is not None:
                self._answers_by(x, course)
                return answer
        course.over = True
        if course.told:
            x.note("no_fallback", {"because": course.told[:16]})
        return None

    def _can(self, x: Request, step: StepSettings) -> bool:
        """Whether the step could answer, as far as that can be known now."""
        if step.stale:
            return self.keeper is not None and self.keeper.has(x, step.stale)
        if step.upstream:
            head = x.head
            whole = x.kept_size <= KEEP and head.length <= KEEP
            return self.detour is not None and x.replayable and whole and not head.upgrade
        return True

    def _answers_by(self, x: Request, course: Course) -> None:
        """That step answers."""
        step = self._steps[course.at - 1]
        self._stats.fallbacks[course.at] += 1
        x.note(
            "fallback",
            {
                "step": course.at, "by": step.kind, "instead_of": course.code or str(course.status),
                "message": course.reply.message, **({"upstream": step.upstream} if step.upstream else {}),
                **({"before": course.told[:16]} if course.told else {}),
            },
        )  # fmt: skip

    # -- another upstream ----------------------------------------------------------------------------------------------

    def _leave_for(self, x: Request, course: Course) -> None:
        if x.request_done:
            self._depart(x, course)
        else:
            course.coming = True
            x.ask_for_body()

    def _depart(self, x: Request, course: Course) -> None:
        """From the event loop: this exchange is in the middle of a reply, or its client of reading."""
        x.listener.loop.call_soon(self._detour, x, course)

    def _detour(self, x: Request, course: Course) -> None:
        if x.phase != PENDING or course.over:
            return
        step = self._steps[course.at - 1] if course.at <= len(self._steps) else None
        if step is None or not step.upstream:  # the settings are others by now
            self._failed(x, course, "it is not configured any more")
            return
        number = course.at

        def accept(code: str, status: int) -> bool:
            """Whether an answer of the other upstream is passed on."""
            if (code or status >= 500) and self._more(x, course, number):
                return False
            self._answers_by(x, course)
            return True

        def failed(why: str) -> None:
            self._failed(x, course, f"{step.upstream}: {why}")

        try:
            course.cancel = self.detour(step.upstream, x, (FIELD, str(number)), accept, failed)
        except ProtocolError as error:
            failed(str(error))

    def _more(self, x: Request, course: Course, number: int) -> bool:
        """Whether a step after that one could answer."""
        return any(it.matches(course.code, course.status) and self._can(x, it) for it in self._steps[number:])

    def _failed(self, x: Request, course: Course, why: str) -> None:
        """The other upstream has not answered: on to the next step, or give the answer that was due."""
        course.cancel = None
        if x.phase != PENDING or course.over:
            return
        course.told.append(why[:200])
        found = self._next(x, course)
        if found is None:
            x.reply(course.reply)
        elif found is not HELD and isinstance(found, Answer):
            x.give(found)

    def _stop(self, course: Course) -> None:
        course.coming = False
        cancel = course.cancel
        course.cancel = None
        if cancel is not None:
            cancel()


def _static(number: int, answer: AnswerSettings | None) -> Answer | None:
    """The answer of a step that has one."""
    if answer is None:
        return None
    return Answer(answer.status, (*answer.headers.items(), (FIELD, str(number))), answer.body.encode())


def _told(step: StepSettings) -> dict[str, Any]:
    return {"on": sorted(step.on), "by": step.kind, **({"upstream": step.upstream} if step.upstream else {})}
