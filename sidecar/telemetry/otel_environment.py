"""What OpenTelemetry's environment variables say: attributes of the resource, and headers for the collector.

Source: OpenTelemetry's specification, "Environment Variable Specification" and "OTLP Exporter Configuration". Lists are
written as W3C baggage: ``key=value`` with commas between, percent-encoded. An entry that is not so is left out, and
the log says which one by its place: headers hold secrets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

logger = logging.getLogger("sidecar.spans")

#: Entries of one variable that are read, and characters of it.
_MOST: Final = 64
_LONGEST: Final = 16384
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What a header's value may hold (RFC 9110 §5.5).
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Headers that the exporter writes itself, or that would change what the request is.
_RESERVED: Final = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "te", "upgrade"}
)


def resource_attributes(environ: Mapping[str, str]) -> dict[str, str]:
    """The attributes of ``OTEL_RESOURCE_ATTRIBUTES``."""
    return dict(_entries(environ, "OTEL_RESOURCE_ATTRIBUTES"))


def service_name(environ: Mapping[str, str]) -> str:
    """``OTEL_SERVICE_NAME``, or empty."""
    return environ.get("OTEL_SERVICE_NAME", "").strip()[:255]


def headers(environ: Mapping[str, str]) -> dict[str, str]:
    """The headers that go with each request to the collector: of ``OTEL_EXPORTER_OTLP_HEADERS``, and of
    ``OTEL_EXPORTER_OTLP_TRACES_HEADERS``, which counts more."""
    found: dict[str, str] = {}
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for n, (name, value) in enumerate(_entries(environ, variable)):
            if not _TOKEN.fullmatch(name) or name.lower() in _RESERVED or not _VALUE.fullmatch(value):
                logger.warning("%s: header %d cannot be sent and is left out", variable, n + 1)
            else:
                found[name.lower()] = value
    return found


def _entries(environ: Mapping[str, str], variable: str) -> Iterator[tuple[str, str]]:
    text = environ.get(variable, "")
    if len(text) > _LONGEST:
        logger.warning("%s is longer than %d characters and is not used", variable, _LONGEST)
        return
    for n, item in enumerate(text.split(",", _MOST)[:_MOST]):
        if not item.strip():
            continue
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            logger.warning("%s: entry %d is not key=value and is left out", variable, n + 1)
        else:
            yield unquote(key.strip()), unquote(value.partition(";")[0].strip())
