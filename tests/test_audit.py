"""The audit of dependencies, with a small made-up database."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = runpy.run_path(str(ROOT / "scripts" / "audit"))


def advisory(id: str, package: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "modified": "2026-01-02T03:04:05Z",
        "aliases": [],
        "summary": f"{package} lets anybody in",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": package},
                "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
                "versions": [],
            }
        ],
        **more,
    }


OPEN = advisory("GHSA-1", "Some_Thing", {"introduced": "0"}, {"fixed": "1.2.10"}, aliases=["CVE-2026-1", "PYSEC-1"])
DATABASE = [
    OPEN,
    advisory("GHSA-2", "other", {"introduced": "1.0"}, {"last_affected": "1.9"}),
    advisory("GHSA-3", "other", {"introduced": "3"}, {"fixed": "4"}, {"introduced": "2.0b1"}, {"fixed": "2.0"}),
    advisory("GHSA-4", "some-thing", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
    advisory("GHSA-5", "not-here", {"introduced": "0"}),
    {**advisory("GHSA-6", "some-thing"), "affected": [{"package": {"ecosystem": "npm", "name": "some-thing"}}]},
]


def write(folder: Path, entries: list[dict[str, Any]] = DATABASE) -> Path:
    (folder / "db" / "deep").mkdir(parents=True)
    for n, entry in enumerate(entries):
        if n % 2:
            (folder / "db" / "deep" / f"{n}.yaml").write_text(yaml.safe_dump(entry))
        else:
            (folder / "db" / f"{n}.json").write_text(json.dumps(entry))
    return folder / "db"


def audit(folder: Path, db: Path, *pins: str, options: tuple[str, ...] = ("--no-installed",)) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    file = folder / "pins.txt"
    file.write_text("# made up\n" + "".join(f"{pin} \\\n    --hash=sha256:{'0' * 64}\n" for pin in pins))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _SCRIPT["main"](["--db", str(db), "--file", str(file), *options])
    return code, out.getvalue(), err.getvalue()


def test_what_is_affected_is_named_with_what_mends_it(tmp_path: Path) -> None:
    code, out, err = audit(tmp_path, write(tmp_path), "some.thing==1.2.9", "other==1.9", "fine==1")
    assert code == 1, err
    assert out.splitlines() == [
        "other 1.9: GHSA-2: other lets anybody in; no fix is known [pins.txt]",
        "some-thing 1.2.9: GHSA-1, CVE-2026-1: Some_Thing lets anybody in; fixed in 1.2.10 [pins.txt]",
        "audit: 3 packages, 5 advisories (the newest of 2026-01-02), 2 found",
    ]


@pytest.mark.parametrize(
    ("pin", "found"),
    [
        ("some-thing==1.2.10", ""),
        ("some-thing==1.10", ""),
        ("some-thing==1.2.10rc1", "GHSA-1"),
        ("some-thing==0.1", "GHSA-1"),
        ("other==0.9", ""),
        ("other==1.9.post1", ""),
        ("other==2.0b2", "GHSA-3"),
        ("other==2.0", ""),
        ("other==3.5", "GHSA-3"),
        ("other==4", ""),
    ],
)
def test_versions_are_compared_as_versions(tmp_path: Path, pin: str, found: str) -> None:
    code, out, _ = audit(tmp_path, write(tmp_path), pin)
    assert code == (1 if found else 0)
    assert found in out
    if not found:
        assert out == "audit: 1 packages, 5 advisories (the newest of 2026-01-02), nothing found\n"


def test_a_version_may_be_listed_instead(tmp_path: Path) -> None:
    entry = advisory("GHSA-7", "listed")
    entry["affected"][0] = {"package": {"ecosystem": "PyPI", "name": "listed"}, "versions": ["1.5"]}
    db = write(tmp_path, [entry])
    assert audit(tmp_path, db, "listed==1.5")[0] == 1
    assert audit(tmp_path, db, "listed==1.6")[0] == 0


def test_a_zip_file_is_a_database_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(OPEN))
    assert audit(tmp_path, tmp_path / "all.zip", "some-thing==1")[0] == 1


@pytest.mark.parametrize("name", ["GHSA-1", "CVE-2026-1", "PYSEC-1"])
def test_one_that_does_not_matter_is_ignored_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    code, _, err = audit(tmp_path, write(tmp_path), "some-thing==1", options=("--no-installed", "--ignore", name))
    assert (code, err) == (0, "")
    code, _, err = audit(tmp_path, tmp_path / "db", "fine==1", options=("--no-installed", "--ignore", "CVE-0"))
    assert (code, err) == (0, "audit: nothing in the database is called CVE-0, which is to be ignored\n")


def test_what_is_installed_is_looked_up(tmp_path: Path) -> None:
    db = write(tmp_path, [advisory("GHSA-8", "pytest", {"introduced": "0"})])
    code, out, _ = audit(tmp_path, db, "fine==1", options=())
    assert code == 1
    assert "pytest" in out
    assert "[installed]" in out


def test_by_default_it_is_what_the_image_has(tmp_path: Path) -> None:
    db = write(
        tmp_path, [advisory("GHSA-9", "aiohttp", {"introduced": "0"}), advisory("GHSA-10", "mypy", {"introduced": "0"})]
    )
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "audit", "--db", db, "--no-installed"]
    it = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert it.returncode == 1, it.stderr
    assert "[constraints.txt]" in it.stdout
    assert "[build-constraints.txt]" in it.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "not an OSV advisory"),
        ('{"id": "x"}', "not an OSV advisory"),
        ('{"id": "x", "affected": [1]}', "not an OSV advisory"),
        (
            '{"id": "x", "affected": [{"package": {"ecosystem": "PyPI", "name": "a"}, "ranges": 5}]}',
            "not an OSV advisory",
        ),
        ('{"affected": [{"package": {"ecosystem": "PyPI", "name": "a"}}]}', "not an OSV advisory"),
        ("[" * 100_000, "cannot be read"),
        (" " * (4 << 20) + "{}", "larger"),
        (None, "no advisory for PyPI"),
    ],
)
def test_a_database_that_cannot_be_used_is_no_clean_bill(tmp_path: Path, content: str | None, said: str) -> None:
    (tmp_path / "db").mkdir()
    if content is not None:
        (tmp_path / "db" / "a.json").write_text(content)
    code, out, err = audit(tmp_path, tmp_path / "db", "a==1")
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_nor_is_one_that_is_not_there_or_pins_that_are_none(tmp_path: Path) -> None:
    assert audit(tmp_path, tmp_path / "nowhere", "a==1")[0] == 2
    assert audit(tmp_path, write(tmp_path))[0] == 2
    assert audit(tmp_path, tmp_path / "db", "a==one")[0] == 2


def test_what_an_advisory_says_cannot_drive_the_terminal(tmp_path: Path) -> None:
    db = write(tmp_path, [advisory("GHSA-11", "a", {"introduced": "0"}, summary="x\x1b[2J\ny")])
    code, out, _ = audit(tmp_path, db, "a==1")
    assert code == 1
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_the_environment_may_name_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pins.txt").write_text("some-thing==1\n")
    arguments = ["--no-installed", "--file", str(tmp_path / "pins.txt")]
    monkeypatch.delenv("ADVISORIES", raising=False)
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert _SCRIPT["main"](arguments) == 2
    assert "make audit ADVISORIES=" in err.getvalue()
    monkeypatch.setenv("ADVISORIES", str(write(tmp_path)))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert _SCRIPT["main"](arguments) == 1
    assert "GHSA-1" in out.getvalue()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [("", 1, "has to name a folder"), ("none", 0, "not looked up"), ("/advisories", 0, "make audit /advisories")],
)
def test_continuous_integration_audits_or_says_that_it_did_not(
    tmp_path: Path, given: str, code: int, said: str
) -> None:
    nightly = (ROOT / ".ci" / "nightly").read_text()
    script = f'set -eu; make() {{ echo "make $1 $ADVISORIES"; }}\n{nightly[nightly.index("case ${ADVISORIES") :]}'
    env = {"PATH": os.environ["PATH"], **({"ADVISORIES": given} if given else {})}
    done = subprocess.run(["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
