"""What may stand in a declarative configuration of Kong 3: names and types as decK reads them, whose schema is public
(Kong/go-database-reconciler, ``pkg/file/kong_json_schema.json``). An unknown field is as wrong there as a wrong type.

Only the kinds of things that a gateway in front of sidecars has; any other is unknown here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: ``kind`` is a record below, ``[kind]`` a list, ``any`` an object of whatever; a ``!`` marks what has to be there.
_SHAPES: Final[Mapping[str, str]] = {
    "document": "_format_version=text! _transform=truth _info=any services=[service] routes=[route] "
    "upstreams=[upstream] plugins=[plugin]",
    "service": "name=text! host=text port=number protocol=text path=text url=text retries=number enabled=truth "
    "connect_timeout=number read_timeout=number write_timeout=number tls_verify=truth tls_verify_depth=number "
    "ca_certificates=[text] client_certificate=text id=text tags=[text] routes=[route] plugins=[plugin] "
    "created_at=number updated_at=number",
    "route": "name=text! paths=[text] methods=[text] hosts=[text] headers=any protocols=[text] snis=[text] "
    "strip_path=truth preserve_host=truth request_buffering=truth response_buffering=truth path_handling=text "
    "regex_priority=number priority=number expression=text https_redirect_status_code=number id=text tags=[text] "
    "plugins=[plugin] created_at=number updated_at=number",
    "upstream": "name=text! algorithm=text hash_on=text hash_on_header=text hash_on_cookie=text "
    "hash_on_cookie_path=text hash_on_query_arg=text hash_on_uri_capture=text hash_fallback=text "
    "hash_fallback_header=text hash_fallback_query_arg=text hash_fallback_uri_capture=text healthchecks=healthchecks "
    "host_header=text slots=number use_srv_name=truth id=text tags=[text] targets=[target] created_at=number",
    "target": "target=text! weight=number failover=truth id=text tags=[text] created_at=number",
    "healthchecks": "active=active passive=passive threshold=number",
    "active": "type=text http_path=text https_sni=text https_verify_certificate=truth timeout=number "
    "concurrency=number headers=any healthy=healthy unhealthy=unhealthy",
    "passive": "type=text healthy=healthy unhealthy=unhealthy",
    "healthy": "interval=number successes=number http_statuses=[number]",
    "unhealthy": "interval=number http_failures=number tcp_failures=number timeouts=number http_statuses=[number]",
    "plugin": "name=text! config=any enabled=truth instance_name=text protocols=[text] route=text service=text "
    "consumer=text consumer_group=text run_on=text ordering=any id=text tags=[text] created_at=number _config=text",
}
_PLAIN: Final[Mapping[str, type]] = {"text": str, "number": int, "truth": bool, "any": dict}


def mistakes(document: Any, kind: str = "document", where: str = "") -> list[str]:
    """What decK would refuse, each with its place; none if it would take the document."""
    if kind.startswith("["):
        if not isinstance(document, list):
            return [f"{where} is no list"]
        return [it for n, each in enumerate(document) for it in mistakes(each, kind[1:-1], f"{where}[{n}]")]
    if kind in _PLAIN:
        return [] if type(document) is _PLAIN[kind] else [f"{where} is no {kind}"]
    if not isinstance(document, dict):
        return [f"{where} is no {kind}"]
    fields = dict(field.split("=") for field in _SHAPES[kind].split())
    found = [f"{where}.{name} is unknown" for name in document if name not in fields]
    for name, wanted in fields.items():
        if name in document:
            found += mistakes(document[name], wanted.rstrip("!"), f"{where}.{name}")
        elif wanted.endswith("!"):
            found.append(f"{where}.{name} is missing")
    return found
