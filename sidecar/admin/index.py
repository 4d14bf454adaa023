"""The page at ``/``: what this sidecar is, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.admin.routes import Route
    from sidecar.admin.view import Running

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{service} · sidecar</title>
<style>
:root {{ color-scheme: light dark; --dim: #667; --line: #8884; --accent: #0a7; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 3rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }}
p {{ color: var(--dim); margin: .25rem 0 1.5rem; }}
b {{ color: var(--accent); font-weight: 600; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ border-top: 1px solid var(--line); padding: .45rem .75rem .45rem 0; vertical-align: top; }}
td:first-child {{ color: var(--dim); font: .8rem/1.9 ui-monospace, monospace; width: 3.5rem; }}
code, a {{ font: .9rem ui-monospace, monospace; }}
a {{ color: inherit; text-underline-offset: .2em; }}
</style>
<h1>{service}</h1>
<p>{id} · <b>{phase}</b> · version {version}</p>
<table>
{rows}
</table>
</html>
"""


def page(running: Running, routes: Sequence[Route], version: str) -> str:
    """HTML. What can be opened without an argument is a link."""
    rows = []
    for route in routes:
        path = escape(route.path)
        shown = f'<a href="{path}">{path}</a>' if route.method == "GET" and "{" not in path else f"<code>{path}</code>"
        rows.append(f"<tr><td>{route.method}</td><td>{shown}</td><td>{escape(route.summary)}</td></tr>")
    service = running.config.service
    return _PAGE.format(
        service=escape(service.name),
        id=escape(service.id),
        phase=escape(running.phase),
        version=escape(version),
        rows="\n".join(rows),
    )
