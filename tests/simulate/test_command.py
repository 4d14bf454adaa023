"""``python -m sidecar.simulate``: what it prints, and what it writes into a page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from sidecar.simulate import command, page, scenarios
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.report import Report, seconds, share, times

ROOT = Path(__file__).resolve().parents[2]


def report(holds: bool = True) -> Report:
    found = Report()
    found.table(["policy", "tries"], [["none", "27"], ["all of them", "1"]])
    found.law("few tries", holds, "1.00 ×")
    found.plot(Plot("tries", "Tries <of all>", "seconds", "per second", [Line("a", [(0, 0), (1, 5)])], shade=(0, 1)))
    return found


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenarios, one of which has a law that does not hold."""
    monkeypatch.setattr(
        command,
        "SCENARIOS",
        {
            "good": scenarios.Scenario("good", "all is well", lambda seed: report()),
            "bad": scenarios.Scenario("bad", "it is not", lambda seed: report(False)),
        },
    )


@pytest.mark.usefixtures("known")
def test_the_exit_code_says_whether_laws_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["good"]) == command.DONE
    told = capsys.readouterr().out
    assert "holds   few tries: 1.00 ×" in told
    assert "none            27\n" in told
    assert command.main(["good", "bad"]) == command.BROKEN
    assert "BROKEN  few tries" in capsys.readouterr().out


@pytest.mark.usefixtures("known")
def test_an_unknown_name_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["goood"]) == command.MISUSED
    assert capsys.readouterr().err == "there is no scenario 'goood'; did you mean good? (--list names all)\n"


def test_the_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == command.main([]) == command.DONE
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == 2 * sorted(scenarios.SCENARIOS)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "python -m sidecar.simulate amplification" in capsys.readouterr().out


@pytest.mark.usefixtures("known")
def test_figures_go_into_their_place_of_a_page(tmp_path: Path) -> None:
    it = tmp_path / "page.md"
    it.write_text("# Page\n<!-- simulate: good -->\nold\n<!-- end -->\nbehind\n", "utf-8")
    assert command.main(["all", "--page", str(it), "--plots", str(tmp_path / "plots"), "--seed", "3"]) == command.BROKEN
    text = it.read_text("utf-8")
    assert text == (
        "# Page\n<!-- simulate: good -->\n\n| policy | tries |\n| --- | ---: |\n| none | 27 |\n| all of them | 1 |\n\n"
        "- few tries: **1.00 ×**\n\n![Tries <of all>](images/resilience/tries.svg)\n\n"
        "`python -m sidecar.simulate good --seed 3`\n<!-- end -->\nbehind\n"
    )
    drawn = (tmp_path / "images" / "resilience" / "tries.svg").read_text("utf-8")
    assert drawn == (tmp_path / "plots" / "tries.svg").read_text("utf-8")


def test_a_place_without_an_end_is_refused(tmp_path: Path) -> None:
    it = tmp_path / "page.md"
    it.write_text("<!-- simulate: good -->\n", "utf-8")
    with pytest.raises(page.PageError, match="no <!-- end -->"):
        page.put(report(), "good", 1, it)


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_is_xml_with_every_point_inside(log: bool) -> None:
    points = [(float(n), float(n * n)) for n in range(0, 50)]
    plot = Plot("x", "a < b & c", "s", "ms", [Line(str(n), points) for n in range(9)], log=log, shade=(1, 2))
    root = ElementTree.fromstring(plot.svg())
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 9
    for line in lines:
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 760
            assert 0 <= y <= float(root.attrib["height"])


def test_a_plot_of_nothing_is_drawn() -> None:
    ElementTree.fromstring(Plot("x", "x", "s", "ms", [Line("a", [])]).svg())
    ElementTree.fromstring(Plot("x", "x", "s", "ms", [Line("a", [(0.0, 0.0)])], log=True).svg())


def test_figures_are_written_to_be_read() -> None:
    assert (seconds(0.0124), seconds(2.04), times(1.234), share(0.1234)) == ("12 ms", "2.0 s", "1.23 ×", "12.3%")


def test_every_scenario_has_a_place_on_the_page() -> None:
    text = (ROOT / "docs" / "resilience.md").read_text("utf-8")
    lacking = [name for name in scenarios.SCENARIOS if f"<!-- simulate: {name} -->" not in text]
    assert lacking == []
