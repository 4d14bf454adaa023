"""Pages are written as prometheus_client's parsers read them, whatever is in the families."""

from __future__ import annotations

from math import inf, isnan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.core.metrics import Family, counter, gauge, histogram
from sidecar.core.stats import BUCKETS, Histogram
from sidecar.telemetry.exposition import Page, wants_openmetrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.one_of(st.integers(0, 10**15), st.floats(0, width=64), st.booleans())


def written(openmetrics: bool, *families: Family) -> str:
    page = Page(openmetrics)
    for family in families:
        page.add(family)
    return page.finish().decode()


def parsed(openmetrics: bool, text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], Any]:
    parse: Any = parse_openmetrics if openmetrics else parse_text
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample
    return found


@given(st.booleans(), st.dictionaries(st.tuples(texts, texts), values, max_size=5), texts)
def test_what_is_written_is_read_again(openmetrics: bool, samples: dict[tuple[str, str], float], help: str) -> None:
    family, other = counter("sidecar_things", help, ("one", "other")), gauge("sidecar_level", help, ("one", "other"))
    for labels, value in samples.items():
        family.add(labels, value)
        other.add(labels, value)
    found = parsed(openmetrics, written(openmetrics, family, other))
    assert len(found) == 2 * len(samples)
    for (one, another), value in samples.items():
        key = (("one", one), ("other", another))
        assert found["sidecar_things_total", key].value == found["sidecar_level", key].value == value


@given(st.booleans(), st.lists(st.floats(0, 100)))
def test_histograms_are_cumulated(openmetrics: bool, observed: list[float]) -> None:
    it, family = Histogram(), histogram("sidecar_took_seconds", "How long.", ("upstream",))
    for value in observed:
        it.observe(value)
    family.add_histogram(["a"], it)
    found = parsed(openmetrics, written(openmetrics, family))
    for bound in BUCKETS:
        sample = found["sidecar_took_seconds_bucket", (("le", str(bound)), ("upstream", "a"))]
        assert sample.value == sum(value <= bound for value in observed)
    assert found["sidecar_took_seconds_bucket", (("le", "+Inf"), ("upstream", "a"))].value == len(observed)
    assert found["sidecar_took_seconds_count", (("upstream", "a"),)].value == len(observed)
    assert found["sidecar_took_seconds_sum", (("upstream", "a"),)].value == pytest.approx(sum(observed))


def test_exemplars_are_in_openmetrics_alone() -> None:
    it, family = Histogram((0.1, 1.0)), histogram("sidecar_took_seconds", "How long.")
    it.observe(0.5)
    it.exemplify(0.4, "0" * 32, 1.0)
    it.exemplify(0.5, TRACE, 1700000000.1234)
    family.add_histogram((), it)
    assert TRACE not in written(False, family)
    found = parsed(True, written(True, family))
    ((key, exemplar),) = [(key, sample.exemplar) for key, sample in found.items() if sample.exemplar]
    assert key == ("sidecar_took_seconds_bucket", (("le", "1.0"),))
    assert (exemplar.labels, exemplar.value) == ({"trace_id": TRACE}, 0.5)
    assert float(exemplar.timestamp) == 1700000000.123


def test_odd_numbers() -> None:
    family = gauge("sidecar_level", "A level.", ("n",))
    for label, value in {"inf": inf, "-inf": -inf, "nan": float("nan"), "big": 10**20, "small": 1e-9}.items():
        family.add((label,), value)
    for openmetrics in (False, True):
        found = {key[1][0][1]: it.value for key, it in parsed(openmetrics, written(openmetrics, family)).items()}
        assert isnan(found.pop("nan"))
        assert found == {"inf": inf, "-inf": -inf, "big": 1e20, "small": 1e-9}


def test_a_counter_may_already_be_called_total() -> None:
    family = counter("sidecar_things_total", "Things.")
    family.add((), 1)
    for openmetrics in (False, True):
        assert ("sidecar_things_total", ()) in parsed(openmetrics, written(openmetrics, family))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4;q=1", False),
        ("application/openmetrics-text; version=1.0.0; q=0.5, text/plain;q=0.9", True),
        ("text/plain, Application/OpenMetrics-Text;q=0.001", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; q=0.000", False),
        ("application/openmetrics-textual", False),
    ],
)
def test_openmetrics_is_for_those_who_name_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
