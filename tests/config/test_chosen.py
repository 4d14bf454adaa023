"""Which keys are not as by default."""

from __future__ import annotations

from pathlib import Path

from sidecar.config.chosen import chosen
from sidecar.config.load import load

FILE = """
service: {name: web}
admin: {bind: "127.0.0.1:15000"}
upstreams:
  a:
    bind: 127.0.0.1:8001
    endpoints: [127.0.0.1:8002]
    retry: {max_attempts: 7}
    circuit_breaker: off
"""


def test_what_is_given_is_named_and_what_is_not_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(FILE)
    found = chosen(load(file))
    assert {"service.name", "upstreams.a.bind", "upstreams.a.endpoints", "upstreams.a.retry.max_attempts"} <= set(found)
    assert "upstreams.a.circuit_breaker" in found
    assert not [path for path in found if path.startswith(("log", "drain", "upstreams.a.timeout"))]
    assert not [path for path in found if path.startswith("upstreams.a.retry.") and "max_attempts" not in path]
