from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.amqp.topology.topic_match import PatternSet, compile_pattern, is_literal
from support.examples import examples


def reference(pattern: list[str], words: list[str]) -> bool:
    """By the definition, one word after the other."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return reference(pattern[1:], words) or bool(words and reference(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and reference(pattern[1:], words[1:])


def split(text: str) -> list[str]:
    return text.split(".") if text else []


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("", [""], [".", "a"]),
        ("a.b", ["a.b"], ["", "a", "a.b.c", "a.B", "a.b."]),
        ("#", ["", "a", ".", "a.b.c"], []),
        ("#.#", ["", "a", ".", "a.b.c"], []),
        ("*", ["a", "*", "#", "long"], ["", ".", "a.b"]),
        ("*.*", [".", "a.b", "a."], ["", "a", "a.b.c"]),
        ("a.#", ["a", "a.", "a.b", "a.b.c"], ["", "ab", "b.a", ".a"]),
        ("a.#.#", ["a", "a.b.c"], ["b"]),
        ("#.a", ["a", ".a", "b.a", "c.b.a"], ["", "ba", "a.b", "a."]),
        ("a.#.b", ["a.b", "a.c.b", "a..b", "a.b.b"], ["a", "b", "a.b.c", "ab"]),
        ("#.a.#", ["a", "b.a", "a.b", "b.a.c", "a.a"], ["", "b", "ab", "b.c"]),
        ("*.#", ["a", ".", "a.b"], [""]),
        ("#.*", ["a", ".", "a.b"], [""]),
        ("a.*.#.c", ["a.b.c", "a.b.b.c", "a.c.c"], ["a.c", "a.b", "c"]),
        (".#", [".", ".a", ".."], ["", "a", "a."]),
        ("#.", [".", "a.", ".."], ["", "a", ".a"]),
        ("..#", ["..", "..a", "."], ["", "a", ".a"]),
        ("a*.#b", ["a*.#b"], ["ab.b", "a.b"]),
        ("*.orange.*", ["quick.orange.fox"], ["orange", "quick.orange", "quick.orange.male.rabbit"]),
        ("lazy.#", ["lazy.pink.rabbit", "lazy"], ["quick.lazy"]),
    ],
)
def test_what_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = compile_pattern(pattern)
    assert [key for key in matching if not matches(key)] == []
    assert [key for key in others if matches(key)] == []


def test_literals() -> None:
    assert is_literal("")
    assert is_literal("a*.b#.##")
    assert not is_literal("a.*")
    assert not is_literal("#")


_words = st.lists(st.sampled_from(["a", "b", "", "ab"]), max_size=7)
_pattern_words = st.lists(st.sampled_from(["#", "#", "*", "a", "b", "", "ab", "#a"]), max_size=7)


@settings(max_examples=examples(600), deadline=None)
@given(pattern=_pattern_words, keys=st.lists(_words, min_size=1, max_size=20))
@example(pattern=["", "#"], keys=[[], [""], ["", ""], ["a"]])
def test_same_as_the_definition(pattern: list[str], keys: list[list[str]]) -> None:
    text = ".".join(pattern)
    matches = compile_pattern(text)
    for words in keys:
        key = ".".join(words)
        assert matches(key) == reference(split(text), split(key)), (text, key)


@settings(max_examples=examples(300), deadline=None)
@given(words=_words, data=st.data())
def test_what_is_made_to_match_does(words: list[str], data: st.DataObject) -> None:
    key = ".".join(words)
    pattern: list[str] = []
    for word in split(key):
        choice = data.draw(st.sampled_from(["word", "*", "#", "# before", "gone"]))
        if choice == "gone" and pattern[-1:] == ["#"]:
            continue
        pattern += {"*": ["*"], "#": ["#"], "# before": ["#", word]}.get(choice, [word])
    assert compile_pattern(".".join(pattern))(key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("#.*." * 63 + "a", "." * 255),
        ("#.a." * 63 + "b", "a." * 127),
        ("#.*.a." * 42 + "b", "a." * 127),
        ("*.#." * 63 + "x", "x." * 126 + "y"),
        ("#." * 127 + "a", "." * 255),
        ("#.a.#" + ".a" * 120 + ".b", "a." * 127),
    ],
)
def test_no_key_makes_it_slow(pattern: str, key: str) -> None:
    matches = compile_pattern(pattern)
    began = time.process_time()
    for _ in range(100):
        assert not matches(key)
    # About 30 µs each; what backtracks would not end at all.
    assert time.process_time() - began < 1.0


_changes = st.tuples(st.sampled_from(["add", "add", "discard"]), _pattern_words.map(".".join))


@settings(max_examples=examples(200), deadline=None)
@given(changes=st.lists(_changes, max_size=60), keys=st.lists(_words.map(".".join), min_size=1, max_size=5))
def test_a_set_is_the_sum_of_its_patterns(changes: list[tuple[str, str]], keys: list[str]) -> None:
    patterns = PatternSet()
    expected: set[str] = set()
    for change, text in changes:
        if change == "add":
            patterns.add(text)
            expected.add(text)
        else:
            patterns.discard(text)
            expected.discard(text)
    assert len(patterns) == len(expected)
    for key in keys:
        found = patterns.matching(key)
        assert len(found) == len(set(found))
        assert set(found) == {text for text in expected if compile_pattern(text)(key)}


def test_a_large_set() -> None:
    patterns = PatternSet()
    for number in range(10_000):
        patterns.add(f"#.{number}.*.#.a")
    assert patterns.matching("x.9999.y.a") == ["#.9999.*.#.a"]
    assert sorted(patterns.matching("1.2.3.a")) == ["#.1.*.#.a", "#.2.*.#.a"]
    assert patterns.matching("1.2.3") == []
    began = time.process_time()
    for _ in range(20):
        assert patterns.matching("b." * 127) == []
    # About 2 ms each.
    assert time.process_time() - began < 1.0


def test_a_set_does_not_keep_what_has_left() -> None:
    patterns = PatternSet()
    for number in range(100):
        patterns.add(f"stays.*.{number}")
    for number in range(20_000):
        patterns.add(f"{number}.*.b.c.d")
        if number >= 50:
            patterns.discard(f"{number - 50}.*.b.c.d")
    assert len(patterns) == 150
    assert len(patterns._groups) <= 5
    assert patterns.matching("stays.or.77") == ["stays.*.77"]
    assert patterns.matching("19960.or.b.c.d") == ["19960.*.b.c.d"]
    assert patterns.matching("1000.or.b.c.d") == []
    for text in list(patterns._places):
        patterns.discard(text)
    assert len(patterns) == 0
    assert patterns.matching("stays.or.77") == []
