"""``sidecar rehearse``: what would have been different in the last hour with another configuration."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.cli.admin_client import Admin, CommandError, token
from sidecar.config.load import load_file
from sidecar.config.show import effective, text
from sidecar.core.text import counted, printable

FINE: Final = 0
DIFFERENT: Final = 1
REFUSED: Final = 3
NOT_ASKED: Final = 4

#: Seconds until it says how far it is, and between two words about that.
_QUIET: Final = 2.0
_PERIOD: Final = 1.0
#: Seconds that a rehearsal may take.
_LONGEST: Final = 330.0
_WORDS: Final = {
    "rejected": "rejected that were admitted",
    "admitted": "admitted that were rejected",
    "failed": "failed that went well",
    "succeeded": "going well that failed",
    "retried": "tried more often",
    "not_retried": "tried less often",
    "rerouted": "on another route",
}


def rehearse(path: str, url: str, token_file: str, *, as_json: bool) -> int:
    """Print what the sidecar at ``url`` says of the file at ``path`` (``-``: standard input). Raises
    :class:`ConfigError` when the file is wrong."""
    new = text(effective(load_file(path))).encode()
    try:
        admin = Admin(url, token(token_file), "--admin URL")
        with _Progress(admin):
            found = admin.ask("POST", "/rehearse", new, _LONGEST)
    except CommandError as error:
        print(f"sidecar rehearse: {error}", file=sys.stderr)
        return REFUSED if getattr(error.__cause__, "code", 0) == 422 else NOT_ASKED
    try:
        told = "\n".join(lines(found))
        different = any(found["changed"].values())
    except (LookupError, TypeError, AttributeError, ValueError):
        print(f"sidecar rehearse: what answers at {url} is not a sidecar's admin API", file=sys.stderr)
        return NOT_ASKED
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else told)
    return DIFFERENT if different else FINE


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A rehearsal, to read."""
    yield _covered(found)
    changed = {kind: n for kind, n in found["changed"].items() if n}
    if not found["decisions"]:
        pass
    elif not changed:
        yield "nothing would have been different"
    for it in found["upstreams"]:
        yield from _listener(it)
    if found["examples"]:
        yield ""
        yield "for example"
        for example in found["examples"]:
            yield from _example(example)
    for title, items in (
        ("taken for granted", found["assumed"] if changed else ()),
        ("not rehearsed", [f"{it['what']}: {it['reason']}" for it in found["not_rehearsed"]]),
    ):
        if items:
            yield ""
            yield title
            yield from (f"  – {printable(text, 400)}" for text in items)


def _covered(found: Mapping[str, Any]) -> str:
    if not found["decisions"]:
        return "nothing has been recorded yet that could be rehearsed"
    text = f"{counted(found['decisions'], 'request')} of the last {_span(found['covered']['seconds'])}"
    if found["agreement"] is not None:
        of = counted(found["agreement_of"], "request")
        text += f"; the running settings, rehearsed too, agree with what happened in {found['agreement']:.1%} of {of}"
    return text


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else "hour"


def _listener(it: Mapping[str, Any]) -> Iterator[str]:
    changed = [f"{n} {_WORDS[kind]}" for kind, n in it["changed"].items() if n]
    before, after = it["before"], it["after"]
    yield ""
    yield f"{printable(it['name'] or 'inbound', 100)}: {counted(it['requests'], 'request')}" + (
        f"; {', '.join(changed)}" if changed else "; nothing would have been different"
    )
    rows = [
        (key.replace("_", " "), before[key], after[key])
        for key in ("admitted", "failed", "retries", "breaker_openings")
    ]
    codes = dict.fromkeys((*before["rejected"], *after["rejected"]))
    rows += [(f"rejected: {code}", before["rejected"].get(code, 0), after["rejected"].get(code, 0)) for code in codes]
    routes = dict.fromkeys((*before["routes"], *after["routes"]))
    rows += [(printable(name, 60), before["routes"].get(name, 0), after["routes"].get(name, 0)) for name in routes]
    if changed or before != after:
        for name, was, would in rows:
            if was or would:
                yield f"    {name:<32} {was:>8} → {would:<8} {'' if was == would else f'{would - was:+d}'}".rstrip()


def _example(it: Mapping[str, Any]) -> Iterator[str]:
    where = printable(f"{it['method']} {it['path']} to {it['upstream'] or 'the app'}", 200)
    yield f"  {it['at'][11:23]}  {where}: {_end(it['happened'])} → {_end(it['would'])}"
    if it["setting"]:
        yield f"                because of {printable(it['setting'], 300)}"


def _end(it: Mapping[str, Any]) -> str:
    text = str(it["status"] or "cut off") + (f" {it['error']}" if it["error"] else "")
    if it["attempts"] > 1:
        text += f" after {it['attempts']} tries"
    return text + (f" by {it['route']}" if it.get("route") else "")


class _Progress:
    """Says on a terminal how far it is, once it takes longer than a moment."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _tell(self) -> None:
        said = False
        wait = _QUIET
        while not self._over.wait(wait):
            wait = _PERIOD
            try:
                text = f"{self._admin.ask('GET', '/rehearse')['share']:.0%}"
            except (CommandError, LookupError, TypeError, ValueError):
                break
            said = True
            print(f"\rrehearsing: {text} ", end="", file=sys.stderr, flush=True)
        if said:
            print("\r                      \r", end="", file=sys.stderr, flush=True)
