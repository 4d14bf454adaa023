"""OpenTelemetry's environment variables: what is taken from them, and that nothing secret of them is shown."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.otel_environment import headers, resource_attributes, service_name


def test_attributes_of_the_resource() -> None:
    given = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod, team = mesh%20net,empty=, ,host.name=a=b"}
    assert resource_attributes(given) == {
        "deployment.environment": "prod", "team": "mesh net", "empty": "", "host.name": "a=b",
    }  # fmt: skip
    assert resource_attributes({}) == {}
    assert service_name({"OTEL_SERVICE_NAME": " tasks "}) == "tasks"
    assert service_name({}) == ""


def test_headers_of_both_variables_and_the_closer_one_counts() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=secret%2C1,x-tenant=a;meta=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-tenant=b",
    }
    assert headers(environ) == {"api-key": "secret,1", "x-tenant": "b"}


@pytest.mark.parametrize(
    "entry",
    ["hunter2", "=hunter2", "a b=hunter2", "x=hunter2%0d%0ainjected: 1", "content-length=hunter2", "Host=hunter2"],
)
def test_what_cannot_be_sent_is_left_out_and_never_shown(entry: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert headers({"OTEL_EXPORTER_OTLP_HEADERS": f"good=1,{entry}"}) == {"good": "1"}
    assert "OTEL_EXPORTER_OTLP_HEADERS" in caplog.text
    assert "hunter2" not in caplog.text


def test_there_is_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    assert len(resource_attributes({"OTEL_RESOURCE_ATTRIBUTES": ",".join(f"k{n}=v" for n in range(1000))})) == 64
    assert resource_attributes({"OTEL_RESOURCE_ATTRIBUTES": "k=" + "v" * 20000}) == {}
    assert "is not used" in caplog.text


@given(st.text())
def test_headers_can_always_be_sent(text: str) -> None:
    for name, value in headers({"OTEL_EXPORTER_OTLP_HEADERS": text}).items():
        assert name.isascii()
        assert not set("\r\n\0") & set(name + value)
        value.encode("latin-1")
