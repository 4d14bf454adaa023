"""A plan, told: as lines for people, and as plain data."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.agent.plan import Plan


def lines(found: Plan) -> Iterator[str]:
    """A plan, to read."""
    if found.refused:
        yield "a reload would be refused:"
        for problem in found.refused:
            yield f"  {problem.path}: {problem.message}"
    elif found.empty:
        yield "a reload would change nothing"
    else:
        yield "a reload would change:"
        yield from (f"  {line}" for line in _changes(found))


def as_dict(found: Plan) -> dict[str, object]:
    """A plan, for machines: ``refused`` (why nothing would be applied), the upstreams that are ``removed``, ``opened``
    and ``changed``, and each key with another value in ``differences``."""
    return {
        "refused": [{"path": problem.path, "message": problem.message} for problem in found.refused],
        "removed": list(found.removed),
        "opened": list(found.opened),
        "changed": list(found.changed),
        "differences": [difference._asdict() for difference in found.differences],
    }


def _changes(found: Plan) -> Iterator[str]:
    yield from (f"upstreams.{name}: removed" for name in found.removed)
    yield from (f"upstreams.{name}: opened" for name in found.opened)
    # What belongs to an upstream that comes or goes as a whole is not told key by key.
    whole = {f"upstreams.{name}" for name in (*found.removed, *found.opened)}
    for difference in found.differences:
        if difference.path not in whole:
            yield f"{difference.path}: {difference}"
