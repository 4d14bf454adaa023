"""What a validation has found: findings in sections, the exit code, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: The sections in their order, and the exit code when a check of one fails.
CODES: Final[Mapping[str, int]] = {
    "infrastructure": 1,
    "service_discovery": 2,
    "load_balancing": 3,
    "circuit_breakers": 4,
    "performance": 5,
    "dashboard": 6,
}
#: Exit code: anything else, wrong arguments included.
OTHER: Final = 6

_RESULTS: Final = {"good": "passed", "bad": "failed", "warn": "warned", "none": "skipped"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``result`` is good, bad, warn (bad, but allowed for) or none (it does not apply); ``step`` says what
    to do next; ``detail`` is for those who want to know more."""

    check: str
    result: str
    evidence: str
    step: str = ""
    detail: str = ""


@dataclass(slots=True)
class Section:
    """One section; ``figures`` are what it has measured, as the report names them. ``tell`` gets each finding at once.
    ``lenient``: a miss that may be allowed for is a warning."""

    name: str
    tell: Callable[[Finding], None] = lambda finding: None
    lenient: bool = False
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def good(self, check: str, evidence: str, detail: str = "") -> None:
        """It is as it should be."""
        self._add(Finding(check, "good", evidence, "", detail))

    def bad(self, check: str, evidence: str, step: str, *, detail: str = "", degraded: bool = False) -> None:
        """It is not. ``degraded``: a mesh can be in use all the same, which ``--degraded-ok`` allows for."""
        self._add(Finding(check, "warn" if degraded and self.lenient else "bad", evidence, step, detail))

    def none(self, check: str, evidence: str) -> None:
        """It does not apply, or could not be done because of what was found before."""
        self._add(Finding(check, "none", evidence))

    def count(self, result: str) -> int:
        """So many findings have this result."""
        return sum(1 for it in self.findings if it.result == result)

    @property
    def failed(self) -> bool:
        return any(it.result == "bad" for it in self.findings)

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.tell(finding)


def exit_code(sections: Mapping[str, Section]) -> int:
    """The lowest code of a section that has failed; 0 when none has."""
    return min((CODES[name] for name, section in sections.items() if section.failed), default=0)


def report(sections: Mapping[str, Section], timestamp: str, sidecars: list[str], registry: str) -> dict[str, Any]:
    """The report. Sections that were not asked for are ``skipped``. ``registry`` is its URL, which has no secret."""
    found: dict[str, Any] = {"timestamp": timestamp, "sidecars": sidecars, "registry": registry or None}
    errors = []
    for name in CODES:
        section = sections.get(name)
        if section is None:
            found[name] = {"status": "skipped", "tests": []}
            continue
        status = "failed" if section.failed else "passed" if section.count("good") else "skipped"
        tests = [
            {"test": it.check, "result": _RESULTS[it.result], "evidence": it.evidence, "next_step": it.step or None}
            for it in section.findings
        ]
        found[name] = {"status": status, **section.figures, "tests": tests}
        errors += [f"{name}: {it.check}: {it.evidence}" for it in section.findings if it.result == "bad"]
    passed, failed = (sum(it.count(result) for it in sections.values()) for result in ("good", "bad"))
    warned = sum(it.count("warn") for it in sections.values())
    total = passed + failed + warned
    found["errors"] = errors
    found["summary"] = {
        "total_tests": total,
        "passed": passed,
        "failed": failed,
        "warned": warned,
        "pass_rate": round(100 * passed / total, 1) if total else 0.0,
        "exit_code": exit_code(sections),
    }
    return found
