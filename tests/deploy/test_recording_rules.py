"""The recording rules, by promtool: they are well-formed, and give what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from support.prometheus import RULES, binary, promtool

#: What dashboards and alerts go by.
NAMES = {
    "service_latency_p99", "error_rate_by_service", "resource_utilization", "message_queue_depth",
    "circuit_breaker_state", "sidecar_upstream_callee",
}  # fmt: skip
#: Of a caller, and of the service that it calls, which has a sidecar of its own. Values grow once a minute.
WEB, TASKS = 'job="sidecars",instance="10.0.0.1:15020"', 'job="sidecars",instance="10.0.0.2:15020"'
OUT, IN = f'{WEB},direction="outbound",upstream="llm"', f'{TASKS},direction="inbound",upstream="tasks"'
IDLE = f'{WEB},direction="outbound",upstream="idle"'
SERIES = {
    f'sidecar_build_info{{{WEB},service="web",version="1"}}': "1+0x10",
    f'sidecar_build_info{{{TASKS},service="tasks",version="1"}}': "1+0x10",
    f'sidecar_upstream_info{{{WEB},upstream="llm",service="tasks",protocol="http",balancer="random"}}': "1+0x10",
    f'sidecar_upstream_info{{{TASKS},upstream="db",service="postgres",protocol="tcp",balancer="random"}}': "1+0x10",
    f'sidecar_upstream_info{{{WEB},upstream="redis",service="",protocol="tcp",balancer="random"}}': "1+0x10",
    f'sidecar_requests_total{{{OUT},method="GET",code="200"}}': "0+57x10",
    f'sidecar_requests_total{{{OUT},method="GET",code="503"}}': "0+3x10",
    f'sidecar_requests_total{{{IN},method="GET",code="200"}}': "0+60x10",
    f'sidecar_requests_total{{{IDLE},method="GET",code="200"}}': "5+0x10",
    f'sidecar_request_duration_seconds_bucket{{{OUT},le="0.1"}}': "0+30x10",
    f'sidecar_request_duration_seconds_bucket{{{OUT},le="0.2"}}': "0+60x10",
    f'sidecar_request_duration_seconds_bucket{{{OUT},le="+Inf"}}': "0+60x10",
    f'sidecar_request_duration_seconds_bucket{{{IN},le="0.1"}}': "0+60x10",
    f'sidecar_request_duration_seconds_bucket{{{IN},le="+Inf"}}': "0+60x10",
    f"process_cpu_seconds_total{{{WEB}}}": "0+30x10",
    f"process_resident_memory_bytes{{{WEB}}}": "50+0x10",
    f"sidecar_memory_limit_bytes{{{WEB}}}": "200+0x10",
    f"process_open_fds{{{WEB}}}": "10+0x10",
    f"process_max_fds{{{WEB}}}": "1000+0x10",
    f"sidecar_requests_active{{{OUT}}}": "19+0x10",
    f"sidecar_requests_pending{{{OUT}}}": "4+0x10",
    f'sidecar_concurrency_limit{{{WEB},upstream="llm"}}': "20+0x10",
    f'sidecar_message_queue_depth{{{WEB},upstream="rabbitmq",vhost="/",queue="tasks"}}': "7+0x10",
    f'sidecar_message_queue_depth{{{TASKS},upstream="rabbitmq",vhost="/",queue="tasks"}}': "9+0x10",
    f'sidecar_circuit_breaker_state{{{WEB},upstream="llm"}}': "2+0x10",
    f'sidecar_circuit_breaker_state{{{TASKS},upstream="db"}}': "0+0x10",
}
EXPECTED = {
    "service_latency_p99": {
        'service="tasks",direction="inbound"': 0.099,
        'service="tasks",direction="outbound"': 0.198,
    },
    "error_rate_by_service": {'service="tasks",direction="inbound"': 0.0, 'service="tasks",direction="outbound"': 0.05},
    "resource_utilization": {
        f'{WEB},service="web",resource="cpu"': 0.5,
        f'{WEB},service="web",resource="memory"': 0.25,
        f'{WEB},service="web",resource="descriptors"': 0.01,
        f'{WEB},service="web",resource="bulkhead",upstream="llm"': 0.75,
    },
    "message_queue_depth": {'vhost="/",queue="tasks"': 9.0},
    "circuit_breaker_state": {
        'service="web",upstream="llm",callee="tasks"': 2.0,
        'service="tasks",upstream="db",callee="postgres"': 0.0,
    },
    "sidecar_upstream_callee": {
        f'{WEB},upstream="llm",callee="tasks"': 1.0,
        f'{WEB},upstream="redis",callee="redis"': 1.0,
        f'{TASKS},upstream="db",callee="postgres"': 1.0,
    },
}  # fmt: skip


def test_they_are_well_formed() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_the_names_are_all_there_and_made_of_metrics_that_are_documented() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert {rule["record"] for rule in rules} == NAMES | {"service:sidecar_requests:rate5m"}
    reference = (RULES.parents[2] / "docs" / "reference.md").read_text("utf-8")
    used = {name for rule in rules for name in re.findall(r"(?<!:)\b((?:sidecar|process)_\w+)", rule["expr"])}
    assert used
    assert {name for name in used - NAMES if name.removesuffix("_bucket") not in reference} == set()


def test_they_give_what_they_say(tmp_path: Path) -> None:
    assert EXPECTED.keys() == NAMES
    tests: list[dict[str, Any]] = [
        {"expr": name, "eval_time": "10m", "exp_samples": [_sample(name, *it) for it in samples.items()]}
        for name, samples in EXPECTED.items()
    ]
    file = tmp_path / "test.yml"
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    content = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    file.write_text(yaml.safe_dump(content))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_example_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """Debian's is built without Consul: what is about it has to be left out."""
    binary("promtool")
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("consul_sd_configs") == [{"server": "consul:8500", "tags": ["sidecar"]}]
    job["static_configs"] = [{"targets": ["127.0.0.1:15020"]}]
    for rules in config["rule_files"]:
        (tmp_path / rules).write_text((RULES.parent / rules).read_text())
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def _sample(name: str, labels: str, value: float) -> dict[str, object]:
    return {"labels": f"{name}{{{labels}}}", "value": value}
