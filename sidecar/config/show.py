"""A configuration in the shape of its file again, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sidecar.config.schema import CONFIG, Config, not_for


def effective(config: Config) -> dict[str, Any]:
    """``config`` as plain data that JSON and YAML can write, defaults included and secrets as ``***``. Loading it
    gives an equal configuration, except for secrets."""
    shown: dict[str, Any] = CONFIG.show(config)
    for listener in (shown.get("inbound"), *shown["upstreams"].values()):
        if listener:
            _drop_what_it_has_not(listener)
    return shown


def text(shown: Mapping[str, Any]) -> str:
    """What :func:`effective` gives, as a file that means the same: JSON, which YAML is, with no variable in it."""
    return json.dumps(shown).replace("$", "$$")


def _drop_what_it_has_not(listener: dict[str, Any]) -> None:
    """Leave out what would be refused in the file: what the protocol has not, and details of rates and spools that are
    none."""
    for name, keys in not_for(listener["protocol"]).items():
        if not keys:
            listener.pop(name, None)
        elif isinstance(section := listener.get(name), dict):
            for key in keys:
                section.pop(key, None)
    if listener["protocol"] == "tcp":
        faults = listener.get("faults", "off")
        for fault in faults if faults != "off" else ():
            del fault["match"]
    if listener["protocol"] == "amqp" and isinstance(eject := listener.get("health", {}).get("eject"), dict):
        del eject["error_rate"], eject["latency"]
    amqp = listener.get("amqp", {})
    for rule in amqp.get("publish", ()):
        if rule["rate"] == "0/s":
            del rule["burst"], rule["over"]
        if "spool" not in amqp:
            rule.pop("expires", None)
    if "spool" not in amqp:
        amqp.pop("dead_letters", None)
