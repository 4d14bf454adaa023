"""The dashboard's files: what is served, how, and that those of others are what they were."""

from __future__ import annotations

import gzip
import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from sidecar.admin.dashboard.files import MEDIA, STATIC, Files
from support.admin import Asking
from support.running import running

ROOT = Path(__file__).resolve().parents[2]
VENDOR = STATIC / "vendor"


def ours() -> list[Path]:
    return [path for path in sorted(STATIC.glob("*/*.js")) if path.parent != VENDOR]


def test_what_others_have_written_is_unchanged_and_has_its_licence() -> None:
    lines = (line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    listed = {name: digest for digest, name in lines}
    there = {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS"}
    assert listed.keys() == there
    for name, digest in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    assert {"LICENSE-preact.txt", "LICENSE-htm.txt"} <= there


def test_the_package_has_them() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = declared["sidecar.admin.dashboard"]
    found = {path for pattern in patterns for path in STATIC.parent.glob(pattern)}
    assert found >= {path for path in STATIC.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", ours(), ids=lambda path: path.name)
def test_a_module_imports_what_there_is(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r'(?:from|import\()\s*"([^"]+)"', text):
        assert name.startswith("."), f"{path.name} imports {name}: there is no import map"
        assert (path.parent / name).resolve().is_file(), f"{path.name} imports {name}"
    assert not re.search(r"innerHTML|dangerously|insertAdjacent|document\.write|\beval\b|new Function", text)
    assert not re.search(r"https?://", text.replace("http://www.w3.org/", ""))


@pytest.mark.asyncio
async def test_they_are_kept_for_ever_and_compressed(admin: Asking) -> None:
    client = await admin(running("tasks"))
    page = await client.get("/", Accept="text/html")
    links = re.findall(r'(?:href|src)="(/dashboard/[^"]+)"', page.body.decode())
    assert len(links) == len(set(links)) > 10
    assert page.headers["Cache-Control"] == "no-store"
    for link in links:
        reply = await client.get(link, Accept_Encoding="gzip")
        assert reply.status == 200
        assert "immutable" in reply.headers["Cache-Control"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        name = link.split("/", 3)[3]
        assert reply.headers["Content-Type"] == MEDIA[Path(name).suffix]
        plain = await client.get(link, Accept_Encoding="identity")
        assert "Content-Encoding" not in plain.headers
        assert plain.body == (STATIC / name).read_bytes()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/0/app/main.js", "/dashboard/{}/app/nothing.js", "/dashboard/{}/vendor/SHA256SUMS",
        "/dashboard/{}/app/..%2Fmain.js", "/dashboard/{}/%2e%2e/files.py",
    ],
)  # fmt: skip
async def test_there_is_nothing_else(admin: Asking, path: str) -> None:
    client = await admin(running("tasks"))
    found = re.search(r"/dashboard/(\w+)/", (await client.get("/", Accept="text/html")).body.decode())
    assert found is not None
    assert (await client.get(path.format(found[1]))).status in (400, 404)


@pytest.mark.asyncio
async def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    versions = set()
    for text in ("one", "two"):
        (folder / "main.js").write_text(text)
        versions.add((await Files(tmp_path).head()).partition("app/main.js")[0])
    assert len(versions) == 2


def test_all_of_it_is_small() -> None:
    """Everything that can be fetched, though a page fetches less."""
    small = sum(len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.glob("*/*") if path.suffix in MEDIA)
    assert small < 150_000
