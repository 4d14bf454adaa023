"""The page at ``/``: how this sidecar and its upstreams are, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from sidecar.admin import report
from sidecar.admin.commands import Commands
from sidecar.admin.dashboard.files import POLICY
from sidecar.core.operations import Operation, Page

#: What is no page to look at: it goes on until the client has seen enough.
_ENDLESS: Final = "application/x-ndjson"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{service} · sidecar</title>
{head}
<noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
<div id="app">
<main class="plain">
<h1>{service}</h1>
<p>{id} · {phase} · {status} · version {version}</p>
{app}
<p>With JavaScript this page is live; without, it loads itself again every five seconds{guarded}.</p>
{upstreams}
<h2>What can be asked</h2>
<div class="scroll"><table>
{routes}
</table></div>
</main>
</div>
</body>
</html>
"""

_GUARDED: Final = (
    "; what clients have published, single requests and changes need the admin token, which a program sends"
)

_UPSTREAMS = """<h2>Upstreams</h2>
<div class="scroll" tabindex="0"><table>
<tr><th>name</th><th>health</th><th>listens on</th><th>breaker</th><th class="n">endpoints</th><th class="n">active</th>
<th class="n">requests</th><th class="n">p99</th></tr>
{rows}
</table></div>"""


def page(commands: Commands, operations: Sequence[Operation], version: str, head: str) -> Page:
    """HTML, with ``head`` in its head. A browser with JavaScript puts the dashboard in its place; in any other it loads
    itself again every few seconds, and what can be opened without an argument is a link."""
    now = commands.snapshot()
    upstreams = [commands.upstream(name) for name in commands.upstreams()]
    health = report.health(now, upstreams)
    rows = "\n".join(_upstream(report.upstream(it)) for it in upstreams)
    known = [it for it in operations if it.path != "/inbound" or commands.inbound() is not None]
    text = _PAGE.format(
        service=escape(now.service),
        head=head,
        guarded=_GUARDED if commands.access().token else "",
        id=escape(now.id),
        phase=_coloured(now.phase),
        status=_coloured(health["status"]),
        version=escape(version),
        app=(f"<p>waits: {escape(now.waiting_for)}</p>" if now.waiting_for else "")
        + "".join(f'<p><b class="warning">a fault is injected</b>: {escape(text)}</p>' for text in now.faults)
        + f"<p>app: {escape(health['app']['output'])}</p>",
        upstreams=_UPSTREAMS.format(rows=rows) if rows else "",
        routes="\n".join(_operations(known)),
    )
    return Page(text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": POLICY})


def _upstream(found: dict[str, Any]) -> str:
    stats = found["stats"]
    name = escape(found["name"])
    in_use = sum(1 for endpoint in found["endpoints"] if not endpoint["ejected"] and endpoint["state"] != "unhealthy")
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
