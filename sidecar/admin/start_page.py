"""The page at ``/``: how this sidecar and its upstreams are, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from sidecar.admin import report
from sidecar.admin.commands import Commands
from sidecar.core.operations import Operation, Page

#: The last three do not follow default-src.
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)

#: What is no page to look at: it goes on until the client has seen enough.
_ENDLESS: Final = "application/x-ndjson"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>{service} · sidecar</title>
<style>
:root {{ color-scheme: light dark; --dim: light-dark(#667, #99a); --line: #8884; --good: light-dark(#087f5b, #38d9a9);
  --warn: light-dark(#b35c00, #ffb454); --bad: light-dark(#c92a2a, #ff8787); }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.6rem; margin: 0; }}
h2 {{ font-size: .8rem; margin: 2.25rem 0 .5rem; color: var(--dim); text-transform: uppercase; letter-spacing: .06em; }}
p {{ color: var(--dim); margin: .25rem 0; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ color: var(--dim); font-size: .8rem; font-weight: 500; text-align: left; padding: 0 1rem .35rem 0; }}
td {{ border-top: 1px solid var(--line); padding: .45rem 1rem .45rem 0; vertical-align: baseline; }}
th:last-child, td:last-child {{ padding-right: 0; }}
.n {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.m {{ color: var(--dim); font: .8rem ui-monospace, monospace; width: 3rem; }}
code, a {{ font: .9rem ui-monospace, monospace; white-space: nowrap; }}
a {{ color: inherit; text-decoration-color: var(--line); text-underline-offset: .25em; }}
.healthy, .ready, .closed {{ color: var(--good); }}
.warning, .starting, .draining, .half_open {{ color: var(--warn); }}
.unhealthy, .stopped, .open {{ color: var(--bad); }}
b {{ font-weight: 600; }}
</style>
<h1>{service}</h1>
<p>{id} · {phase} · {status} · version {version}</p>
{app}
{upstreams}
<h2>What can be asked</h2>
<div><table>
{routes}
</table></div>
</html>
"""

_UPSTREAMS = """<h2>Upstreams</h2>
<div><table>
<tr><th>name</th><th>health</th><th>listens on</th><th>breaker</th><th class="n">endpoints</th><th class="n">active</th>
<th class="n">requests</th><th class="n">p99</th></tr>
{rows}
</table></div>"""


def page(commands: Commands, operations: Sequence[Operation], version: str) -> Page:
    """HTML; it loads itself again every few seconds. What can be opened without an argument is a link."""
    now = commands.snapshot()
    upstreams = [commands.upstream(name) for name in commands.upstreams()]
    health = report.health(now, upstreams)
    rows = "\n".join(_upstream(report.upstream(it)) for it in upstreams)
    text = _PAGE.format(
        service=escape(now.service),
        id=escape(now.id),
        phase=_coloured(now.phase),
        status=_coloured(health["status"]),
        version=escape(version),
        app=(f"<p>waits: {escape(now.waiting_for)}</p>" if now.waiting_for else "")
        + f"<p>app: {escape(health['app']['output'])}</p>",
        upstreams=_UPSTREAMS.format(rows=rows) if rows else "",
        routes="\n".join(_operations(operations)),
    )
    return Page(text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY})


def _upstream(found: dict[str, Any]) -> str:
    stats = found["stats"]
    name = escape(found["name"])
    in_use = sum(1 for endpoint in found["endpoints"] if not endpoint["ejected"])
    breaker = found["breaker"]
    return (
        f'<tr><td><a href="/upstreams/{name}">{name}</a></td><td>{_coloured(found["health"])}</td>'
        f"<td><code>{escape(found['bind'])}</code></td>"
        f"<td>{_coloured(breaker['state']) if breaker else 'off'}</td>"
        f'<td class="n">{in_use} of {len(found["endpoints"])}</td><td class="n">{stats["active"]}</td>'
        f'<td class="n">{sum(stats["requests"].values())}</td><td class="n">{stats["p99_ms"]:g} ms</td></tr>'
    )


def _operations(operations: Sequence[Operation]) -> Iterator[str]:
    for it in operations:
        path = escape(it.path)
        opens = it.method == "GET" and "{" not in path and _ENDLESS not in it.pages
        shown = f'<a href="{path}">{path}</a>' if opens else f"<code>{path}</code>"
        yield f'<tr><td class="m">{it.method}</td><td>{shown}</td><td>{escape(it.summary)}</td></tr>'


def _coloured(word: str) -> str:
    return f'<b class="{escape(word)}">{escape(word.replace("_", "-"))}</b>'
