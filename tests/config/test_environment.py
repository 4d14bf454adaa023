from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.environment import BadVariable, shield, substitute, unshield
from support.configs import FULL, config_of, error_of, problem_of

ENVIRON = {"A": "one", "EMPTY": "", "B_2": "two"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${B_2}z", "xoneytwoz"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${NONE:-d}", "d"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b c}", "a:-b c"),
        ("${A:-d}", "one"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ $$", "$A $ $$"),
    ],
)
def test_substitution(text: str, result: str) -> None:
    assert substitute(text, ENVIRON) == result


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1A}", "${A-x}", "${A:?x}", "${A:-${B}}", "${ A }"])
def test_what_is_not_a_variable_is_refused(text: str) -> None:
    with pytest.raises(BadVariable, match=r"without a variable"):
        substitute(text, ENVIRON)


def test_a_variable_without_value_is_named() -> None:
    with pytest.raises(BadVariable, match=r"the environment variable NONE is not set"):
        substitute("x ${NONE}", ENVIRON)


@given(st.text(st.characters(max_codepoint=0xFFFF, codec="utf-8")))
def test_shielding_is_undone(text: str) -> None:
    assert unshield(shield(text)) == text
    assert len(shield(text)) == len(text)


def test_variables_may_stand_inside_flow_collections() -> None:
    config = config_of(FULL + "consul: {token: ${TOKEN:-a, b: [c]}, datacenter: ${DC}}\n", {"DC": "dc1"})
    assert config.consul.datacenter == "dc1"
    assert config.consul.token.reveal() == "a, b: [c]"


def test_values_are_typed_after_substitution() -> None:
    text = """
        service: {name: "${NAME}", weights: {passing: ${WEIGHT}}, tags: [${TAG:-t}]}
        admin: {bind: "127.0.0.1:${PORT}"}
        upstreams:
          a:
            bind: ${HOST}:${PORT:-1}0
            endpoints: [b:${PORT}]
            retry: {jitter: ${JITTER}, max_delay: ${DELAY}}
            bulkhead: ${BULKHEAD}
        """
    environ = {"NAME": "12", "WEIGHT": "7", "PORT": "81", "HOST": "127.0.0.1", "JITTER": "false", "DELAY": "5s"}
    config = config_of(text, environ | {"BULKHEAD": "off"})
    assert config.service.name == "12"
    assert config.service.weights.passing == 7
    upstream = config.upstreams["a"]
    assert upstream.bind.port == 810
    assert upstream.policies["retry"] is not None
    assert not upstream.policies["retry"].jitter
    assert upstream.policies["retry"].max_delay == 5.0
    assert upstream.policies["bulkhead"] is None


def test_a_plain_variable_with_a_number_is_a_number() -> None:
    problem = problem_of("service: {name: ${NAME}}", {"NAME": "12"})
    assert problem.message == "is not text for YAML; put it in quotes: '12'"
    assert problem.found == "12 (from ${NAME})"


def test_a_value_cannot_change_the_structure() -> None:
    evil = "a, admin: {bind: 0.0.0.0:1}}\nadmin: {bind: 0.0.0.0:1}"
    problem = problem_of("service: {name: ${NAME}}", {"NAME": evil})
    assert problem.path == "service.name"
    config = config_of(FULL + "consul: {token: ${T}}", {"T": "x}, datacenter: dc2"})
    assert config.consul.token.reveal() == "x}, datacenter: dc2"
    assert config.consul.datacenter == ""


def test_a_missing_variable_is_an_error_at_its_place() -> None:
    problem = problem_of("service: {name: a}\nlog:\n  level: ${LEVEL}\n")
    assert (problem.path, problem.line) == ("log.level", 3)
    assert "LEVEL is not set" in problem.message


def test_quoted_defaults_see_their_escapes() -> None:
    config = config_of('service: {name: a, meta: {x: "${X:-a \\"b\\"}", y: \'${Y:-it\'\'s}\', z: "$${Z}"}}')
    assert config.service.meta == {"x": 'a "b"', "y": "it's", "z": "${Z}"}


def test_keys_are_not_substituted() -> None:
    error = error_of("service: {name: a, ${KEY}: b}", {"KEY": "id"})
    assert error.problems[0].message == "is not a known key"


def test_a_value_that_is_not_utf8() -> None:
    problem = problem_of("service: {name: '${NAME}'}", {"NAME": "a\udcff"})
    assert "not UTF-8" in problem.message
    assert str(problem.text("f")).encode()
