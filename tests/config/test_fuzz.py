"""Whatever stands in the file: either a configuration or a ConfigError, and never a secret in its text."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.errors import ConfigError
from sidecar.config.kinds import Kind
from sidecar.config.load import load_text
from sidecar.config.policy import Policy, Short
from sidecar.config.schema import CONFIG, Config
from support.configs import FULL
from support.examples import examples

_WORDS = (
    *("off", "on", "~", "none", "http", "tcp", "127.0.0.1:1", "[::1]:0", "10.0.0.1:80", "30s", "1h", "64KiB", "100/s"),
    *("amqp", "hold", "0/s", "#", "a.*", "http://x:hunter2@c"),
    *(
        "consul://c:1",
        "directory:///x",
        "http://x",
        "/x",
        "*",
        "5xx",
        "502",
        "header:x",
        "${A}",
        "${B:-3}",
        "${C",
        "x\ny",
    ),
)
_SCALARS = st.one_of(
    st.sampled_from(_WORDS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=8),
)
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def values_like(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of roughly the right shape: known keys, mostly, and any value at the ends."""
    match kind:
        case Section():
            keys = {name: st.one_of(values_like(key.kind), _SCALARS) for name, key in kind.keys.items()}
            return st.fixed_dictionaries({}, optional={**keys, "unknown": _SCALARS})
        case Policy() | Short():
            return st.one_of(values_like(kind.section), _SCALARS)
        case ListOf():
            return st.lists(values_like(kind.item), max_size=2)
        case MapOf():
            return st.dictionaries(st.sampled_from(["a", "B", "x y", "x-a"]), values_like(kind.value), max_size=2)
        case _:
            return _SCALARS


def outcome(text: str) -> Config | str:
    """The configuration, or the text of its error, which has to be printable."""
    try:
        return load_text(text, "mesh.yaml", {"A": "hunter2"})
    except ConfigError as error:
        text_of = str(error)
        text_of.encode()
        return text_of


@settings(max_examples=examples(500), deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    outcome(text)


@settings(max_examples=examples(500), deadline=None)
@given(st.text("ab:-[]{}&*!|>'\"%@`#,?<~${}\n\t \ud7ff\udc00", max_size=60))
def test_any_text_that_looks_like_yaml(text: str) -> None:
    outcome(text)


@settings(max_examples=examples(500), deadline=None)
@given(_ANYTHING)
def test_any_document(data: Any) -> None:
    outcome(yaml.safe_dump(data, allow_unicode=True))


@settings(max_examples=examples(500), deadline=None)
@given(values_like(CONFIG))
def test_any_values_at_known_keys(data: Any) -> None:
    outcome(yaml.safe_dump(data, allow_unicode=True))


@settings(max_examples=examples(500), deadline=None)
@given(st.data())
def test_any_edit_of_a_good_file(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 20)))
    outcome(FULL[:start] + data.draw(st.sampled_from(["", *_WORDS, ": ", "- ", "{", "}", "\n"])) + FULL[end:])


@settings(max_examples=examples(500), deadline=None)
@given(
    st.sampled_from(["consul: {token: %s}", "admin: {token: %s}", "consul: %s", "admin: {bind: 0.0.0.0:1, token: %s}"]),
    st.sampled_from(
        [
            "hunter2",
            "[hunter2]",
            "{hunter2",
            "*hunter2",
            "!x hunter2",
            "'hunter2",
            "{x: hunter2}",
            "${A}",
            '"${A}\\n"',
            "${A",
            "[${A}]",
            "{file: [hunter2]}",
            "hunter2: x",
            "&hunter2",
            "%hunter2",
            "`hunter2",
        ]
    ),
)
def test_a_secret_in_any_shape_is_never_shown(line: str, value: str) -> None:
    assert "hunter2" not in str(outcome(f"service: {{name: a}}\n{line % value}\n"))
