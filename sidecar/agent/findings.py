"""What a check of ``sidecar diagnose`` has found."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

#: Items that a finding names, at most.
NAMED: Final = 3


class Finding(NamedTuple):
    """``check`` names it, ``upstream`` is what it is about, or "". ``good`` is None where it does not apply;
    ``evidence`` is what was seen, and ``step``, of one that is not good, what to do next."""

    check: str
    upstream: str
    good: bool | None
    evidence: str
    step: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        result = {True: "good", False: "bad", None: "none"}[self.good]
        return {
            "check": self.check,
            "upstream": self.upstream or None,
            "result": result,
            "evidence": self.evidence,
            "step": self.step or None,
        }


def good(check: str, evidence: str, upstream: str = "") -> Finding:
    """It is as it should be."""
    return Finding(check, upstream, True, evidence)


def bad(check: str, evidence: str, step: str, upstream: str = "") -> Finding:
    """It is not; ``step`` is what to do next."""
    return Finding(check, upstream, False, evidence, step)


def none(check: str, evidence: str, upstream: str = "") -> Finding:
    """There is nothing to check."""
    return Finding(check, upstream, None, evidence)


def some(texts: list[str]) -> str:
    """The first few of them, and how many there are beside."""
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
