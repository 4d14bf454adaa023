"""``sidecar validate``: exit codes, the report, and how it prints."""

from __future__ import annotations

import asyncio
import io

import pytest

from sidecar.cli.main import main
from sidecar.cli.validate import command
from sidecar.cli.validate.findings import CODES, Section, exit_code, report
from sidecar.cli.validate.view import View


def failing(*names: str) -> dict[str, Section]:
    found = {name: Section(name) for name in CODES}
    for name, section in found.items():
        section.good("fine", "as it should be")
        if name in names:
            section.bad("broken", "not so", "mend it")
    return found


@pytest.mark.parametrize(("name", "code"), list(CODES.items()))
def test_each_section_has_its_code(name: str, code: int) -> None:
    assert exit_code(failing(name)) == code


def test_the_lowest_code_wins() -> None:
    assert exit_code(failing("dashboard", "load_balancing", "performance")) == 3
    assert exit_code(failing()) == 0


def test_the_report_has_every_section_and_the_sum() -> None:
    sections = failing("performance")
    sections["performance"].figures["discovery_calls_per_second"] = 7.5
    del sections["dashboard"]
    found = report(sections, "2026-01-01T00:00:00+00:00", ["http://127.0.0.1:15000"], "none")
    assert [name for name in found if name in CODES] == list(CODES)
    assert found["performance"]["discovery_calls_per_second"] == 7.5
    assert found["performance"]["status"] == "failed"
    assert found["dashboard"] == {"status": "skipped", "tests": []}
    assert found["errors"] == ["performance: broken: not so"]
    assert found["summary"] == {
        "total_tests": 6, "passed": 5, "failed": 1, "warned": 0, "pass_rate": 83.3, "exit_code": 5,
    }  # fmt: skip


def test_what_may_be_allowed_for_is_a_warning_then() -> None:
    strict, lenient = Section("performance"), Section("performance", lenient=True)
    for section in (strict, lenient):
        section.bad("discovery", "99 per second", "measure again", degraded=True)
    assert (strict.failed, lenient.failed) == (True, False)
    assert lenient.count("warn") == 1


def test_a_check_is_a_line_and_its_next_step_another() -> None:
    out = io.StringIO()
    view = View(out, terminal=False, colour=False, detailed=True)
    section = Section("service_discovery", view.finding)
    view.section("service_discovery")
    view.doing("not shown where it is no terminal")
    section.good("registry", "answers", "3 \x1b[31mservices")
    section.bad("upstream", "tasks has \x1b[31m no endpoint", "start one")
    view.done({"service_discovery": section}, 2, 1.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "service discovery"
    assert lines[1].split() == ["✓", "registry", "answers"]
    assert lines[3].startswith("✗ upstream")
    assert lines[4].strip() == "→ start one"
    assert lines[-1] == "1 check passed, 1 failed in 1.0 s: exit code 2"
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [["--component", "nonsense"], ["--nonsense"], ["--registry", "ftp://x"], ["--admin", "ftp://x"],
     ["--token-file", "/no/such/file"], ["--json", "/no/such/folder/report.json"]],
)  # fmt: skip
def test_misuse_is_not_taken_for_a_finding(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["validate", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 6
    assert "sidecar validate: " in capsys.readouterr().err


def test_a_registry_that_a_sidecar_names_gets_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    with pytest.raises(command._Misused, match="no meaning here") as refused:
        command._settings("consul://${SECRET}.example:8500", "")
    assert "hush" not in str(refused.value)


def test_what_is_taken_out_is_taken_out_whole() -> None:
    """Also when the signal comes while it is."""
    done: list[str] = []

    async def take_out() -> None:
        done.append("begun")
        going.set()
        await on.wait()
        done.append("ended")

    async def main() -> None:
        task = asyncio.create_task(command._whole(take_out()))
        await going.wait()
        task.cancel()
        on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    going, on = asyncio.Event(), asyncio.Event()
    asyncio.run(main())
    assert done == ["begun", "ended"]
