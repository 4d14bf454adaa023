"""Real sidecars that share a canary: their configurations, and what they say of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from support.processes import App, Sidecar, get


def shared_by(registry: str, old: App, new: App, canary: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """What gives a sidecar's configuration, by its name. All call both versions as ``tasks``, and try nothing again."""
    tasks = {
        "bind": "127.0.0.1:0",
        "endpoints": [
            {"address": f"127.0.0.1:{old.port}", "tags": ["v1"]},
            {"address": f"127.0.0.1:{new.port}", "tags": ["v2"]},
        ],
        "subsets": {"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
        "split": {"stable": 100},
        "canary": {"subset": "next", **canary},
        "retry": "off",
        "circuit_breaker": "off",
        "health": {"eject": "off"},
    }
    shared = {"registry": registry, "drain": {"timeout": "1s"}, "upstreams": {"tasks": tasks}}
    return lambda name: {"service": {"name": name}, **shared}


def canary_of(sidecar: Sidecar) -> dict[str, Any]:
    """What it says of it."""
    found: dict[str, Any] = get(f"{sidecar.admin}/upstreams/tasks")[1]["canary"]
    return found


def at(phase: str, weight: int, *sidecars: Sidecar) -> bool:
    """Whether all of these are there, and the registry knows it."""
    return all((it["phase"], it["weight"], it["told"]) == (phase, weight, True) for it in map(canary_of, sidecars))


def act(sidecar: Sidecar, action: str) -> tuple[int, Any]:
    """Do something with it by hand; the status and the answer."""
    request = urllib.request.Request(f"{sidecar.admin}/upstreams/tasks/canary/{action}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(sidecar: Sidecar, path: str, requests: int) -> None:
    """Send so many requests through it, whatever comes of them."""
    for _ in range(requests):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{sidecar.port('tasks')}{path}", timeout=30):
                pass
        except urllib.error.HTTPError as error:
            error.close()
