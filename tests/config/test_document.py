from __future__ import annotations

import time

import pytest
import yaml

from sidecar.config import document
from sidecar.config.document import BadDocument, Mapping, Node, Scalar, Sequence, parse
from sidecar.config.errors import Problem


@pytest.fixture(params=["libyaml", "pure Python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: which one there is depends on how it was installed."""
    if request.param == "pure Python":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)


def plain(node: Node | None) -> object:
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(entry.value) for key, entry in node.entries.items()}
        case None:
            return None


def parsed(text: str) -> object:
    problems: list[Problem] = []
    node = parse(text, problems)
    assert not problems
    return plain(node)


def bad(text: str) -> Problem:
    with pytest.raises(BadDocument) as caught:
        parse(text, [])
    return caught.value.problem


def test_a_tree_of_texts_with_lines() -> None:
    root = parse("a: 1\nb:\n  - 'x'\n  - {c: |\n      y\n  }\n".replace("{c: |\n      y\n  }", "c: |\n      y"), [])
    assert plain(root) == {"a": "1", "b": ["x", {"c": "y\n"}]}
    assert isinstance(root, Mapping)
    assert root.entries["b"].line == 2
    items = root.entries["b"].value
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 4]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_an_empty_document(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("text", "type"),
    [("1", "int"), ("1.5", "float"), ("off", "bool"), ("~", "null"), ("x", "str"), ("'1'", "str"), ("!!str 1", "str")],
)
def test_the_type_that_yaml_gives(text: str, type: str) -> None:
    node = parse(text, [])
    assert isinstance(node, Scalar)
    assert node.type == type


def test_equal_keys_are_reported_and_the_first_is_kept() -> None:
    problems: list[Problem] = []
    root = parse("a: {b: 1, b: 2}\na: 3\n", problems)
    assert plain(root) == {"a": {"b": "1"}}
    assert [(p.path, p.line, p.message) for p in problems] == [
        ("a.b", 1, "is given twice, first in line 1"),
        ("a", 2, "is given twice, first in line 1"),
    ]


def test_aliases_and_merge_keys() -> None:
    text = "a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\nd: {<<: [{k: 9}, *x]}\n"
    pair = {"k": "1", "l": "2"}
    assert parsed(text) == {"a": pair, "b": pair, "c": {"l": "3", "k": "1"}, "d": {"k": "9", "l": "2"}}


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a: [1,\nb: 2", "is not valid YAML", 2),
        ("a: 1\n b: 2", "is not valid YAML", 2),
        ("a: b: c", "is not valid YAML", 1),
        ("a: 'x", "is not valid YAML", 1),
        ("\ta: 1", "is not valid YAML", 1),
        ("a: 1\nb: \x07", "is not valid YAML", 2),
        ("a: 1\n---\nb: 2", "has more than one document", 2),
        ("a: !!python/object/apply:os.system [x]", "has a YAML tag", 1),
        ("a: !!int '3'", "has a YAML tag", 1),
        ("[a]: 1", "has a key that is not a word", 1),
        ("a: *x", "is an alias", 1),
        ("a: &x [*x]", "is an alias", 1),
        ("a: &x {<<: *x}", "is an alias", 1),
        ("a: {<<: 3}", "merges something that is not a mapping", 1),
        ("[" * 100, "is nested too deeply", 1),
        ("a: \ud800", "is not text in UTF-8", 0),
        ("x" * ((1 << 20) + 1), "is too large", 0),
    ],
)
def test_unusable_documents(text: str, message: str, line: int) -> None:
    problem = bad(text)
    assert problem.message.startswith(message)
    if line and "\x07" not in text:
        assert abs(problem.line - line) <= 1  # the two parsers differ by one where a line ends
    assert problem.text("f").encode()


def test_half_a_surrogate_pair_in_an_escape() -> None:
    assert bad('a: "\\ud800"').message.startswith(("is not valid YAML", "has half of a surrogate pair"))


def test_syntax_errors_do_not_quote_the_line() -> None:
    for text in ("token: hunter2: x", "token: [hunter2", 'token: "hunter2', "token: *hunter2", "token: !hunter2 x"):
        assert "hunter2" not in bad(text).text("mesh.yaml")


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 12):
        bomb += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    start = time.process_time()
    assert bad(bomb).message == "has too many values"
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["[" * 500_000, "- " * 200_000, "{a: " * 200_000, "a: [" * 1001])
def test_deep_nesting_is_refused_before_it_is_parsed(text: str) -> None:
    """By whichever of the two counts first: libyaml's newer releases refuse it themselves."""
    start = time.process_time()
    assert bad(text).message == "is nested too deeply"
    assert time.process_time() - start < 5
