"""What is told of the process, beside what prometheus_client tells of it."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector

from sidecar.core.metrics import Family
from sidecar.telemetry.process_metrics import process_families, python_families


def theirs() -> dict[str, Metric]:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return {metric.name: metric for metric in registry.collect()}


def described(families: Iterable[Family]) -> dict[str, tuple[str, str]]:
    return {it.name: (it.kind, it.help) for it in families}


def value(families: Iterable[Family], name: str) -> float:
    return next(it.samples[0][1] for it in families if it.name == name)


def test_names_kinds_and_texts_are_those_that_dashboards_know() -> None:
    ours = described((*process_families(), *python_families()))
    assert ours == {name: (metric.type, metric.documentation) for name, metric in theirs().items()}


def test_values_that_stay_are_the_same() -> None:
    expected, ours = theirs(), process_families()
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert value(ours, name) == expected[name].samples[0].value
    info = next(it for it in python_families() if it.name == "python_info")
    ((labels, one),) = info.samples
    assert one == 1
    for name, label in zip(info.labels, labels, strict=True):
        if name in ("version", "implementation", "major", "minor"):
            assert expected["python_info"].samples[0].labels[name] == label


def test_what_the_garbage_collector_has_done() -> None:
    gc.collect()
    runs = next(it for it in python_families() if it.name == "python_gc_collections")
    assert [labels for labels, _ in runs.samples] == [("0",), ("1",), ("2",)]
    assert runs.samples[2][1] >= 1


def test_what_is_read_of_proc(tmp_path: Path) -> None:
    (tmp_path / "self/fd").mkdir(parents=True)
    for number in range(5):
        (tmp_path / f"self/fd/{number}").touch()
    fields = ["S", *map(str, range(1, 30))]
    fields[11:13], fields[19:22] = ["150", "50"], ["1000", "4096", "2"]
    (tmp_path / "self/stat").write_text(f"7 (a) b (c) {' '.join(fields)}\n")
    (tmp_path / "stat").write_text("cpu  1 2\nbtime 1700000000\nprocesses 9\n")
    found = process_families(tmp_path)
    assert value(found, "process_open_fds") == 4
    assert value(found, "process_virtual_memory_bytes") == 4096
    assert value(found, "process_resident_memory_bytes") % 2 == 0
    assert value(found, "process_cpu_seconds") > 0
    assert value(found, "process_start_time_seconds") > 1_700_000_000
    (tmp_path / "stat").write_text("cpu  1 2\n")
    assert process_families(tmp_path) == ()
    assert process_families(tmp_path / "none") == ()
