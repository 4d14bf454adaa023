"""Filters that are added: one of another package, as the documentation teaches it; one of our own, in three files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

import sidecar
from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, get

PAGE = Path(__file__).resolve().parents[2] / "docs" / "filters.md"


def install(folder: Path) -> Path:
    """Build the package of the page and unpack it, as pip does, only sooner; the folder that it is in."""
    blocks = dict(re.findall(r"^```(python|toml)\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    assert len(blocks["python"].splitlines()) + len(blocks["toml"].splitlines()) <= 40
    source, target = folder / "source", folder / "target"
    source.mkdir()
    (source / "sidecar_mtime.py").write_text(blocks["python"])
    (source / "pyproject.toml").write_text(blocks["toml"])
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, timeout=PATIENCE, capture_output=True, text=True
    )
    shutil.unpack_archive(source / done.stdout.split()[-1], target, "zip")
    return target


def ask(port: int, headers: Mapping[str, str], path: str = "/") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers["x-sidecar-error"]


def test_the_documented_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(install(tmp_path)), os.environ.get("PYTHONPATH", "")]))
    with ending() as processes:
        app = App(tmp_path, "app").ready()
        processes.append(app)
        upstream = {
            "bind": "127.0.0.1:0",
            "endpoints": [f"127.0.0.1:{app.port}"],
            "filters": [{"use": "mtime", "max_age": "30s"}],
        }
        it = Sidecar(tmp_path, {"service": {"name": "s"}, "upstreams": {"tasks": upstream}})
        processes.append(it)
        it.ready()
        port = it.port("tasks")
        assert ask(port, {}) == (200, "")
        assert ask(port, {"x-when": str(time.time())}) == (200, "")
        assert ask(port, {"x-when": str(time.time() - 100)}) == (412, "too_old")
        assert 'sidecar_filter_mtime_refused_total{direction="outbound",upstream="tasks"} 1.0' in str(
            get(f"{it.admin}/metrics")[1]
        )
        assert get(f"{it.admin}/upstreams/tasks")[1]["stats"]["filters"]["mtime"] == {"refused": 1}
        assert get(f"{it.admin}/config")[1]["upstreams"]["tasks"]["filters"][0] == {
            "use": "mtime", "header": "x-when", "max_age": 30.0,
        }  # fmt: skip
        shown = subprocess.run(
            [sys.executable, "-m", "sidecar", "status", "--admin", it.admin],
            check=True, timeout=PATIENCE, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert re.search(r"^tasks +mtime +refused +1$", shown, re.M)
        it.file.write_text(it.file.read_text().replace("max_age", "max_agee"))
        checked = subprocess.run(
            [sys.executable, "-m", "sidecar", "check", str(it.file)],
            check=False, timeout=PATIENCE, capture_output=True, text=True,
        )  # fmt: skip
        assert checked.returncode == 2
        assert "upstreams.tasks.filters[0].max_agee: is not a known key" in checked.stdout + checked.stderr


STAMP = '''"""Refuses requests without a stamp."""

from __future__ import annotations

from typing import Any, ClassVar

from sidecar.config.declared import Settings, key
from sidecar.config.values import Text
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter


class StampSettings(Settings):
    """Refuse requests without a stamp."""

    header: str = key(Text("a header name"), "Where the stamp is.", default="x-stamp")


class Stamp(Filter):
    name: ClassVar[str] = "stamp"
    settings_class: ClassVar[Any] = StampSettings
    replies: ClassVar[dict[str, int]] = {"not_stamped": 402}
    counters: ClassVar[dict[str, str]] = {"missing": "Requests without a stamp."}

    def on_request(self, x: Any) -> Reply | None:
        if x.head.get(self.config.header.encode()):
            return None
        self.count("missing")
        return Reply("not_stamped", "the request has no stamp")

    def view(self) -> dict[str, Any]:
        return {"header": self.config.header}
'''
STAMP_TEST = """from sidecar.filters.stamp import Stamp, StampSettings
from support.http import Stage, request


def test_it() -> None:
    x = Stage().exchange(request("GET / HTTP/1.1", "x-stamp: 1"))
    assert Stamp(StampSettings()).on_request(x) is None
"""
LINE = '    Place("stamp", "what has no stamp takes no token", "Stamp"),\n'


def output(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], check=True, timeout=PATIENCE, capture_output=True, text=True
    ).stdout


@pytest.mark.costly
def test_a_filter_takes_its_file_its_test_and_a_line_in_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    here = Path(sidecar.__file__).parent
    shutil.copytree(here, root / "sidecar", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(PAGE.parents[1] / "tests" / "support", root / "tests" / "support")
    (root / "sidecar" / "filters" / "stamp.py").write_text(STAMP)
    (root / "tests" / "test_stamp.py").write_text(STAMP_TEST)
    order = root / "sidecar" / "filters" / "order.py"
    text = order.read_text()
    before = '    Place("rate_limit",'
    assert before in text
    order.write_text(text.replace(before, LINE + before))

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "tests")]))
    monkeypatch.chdir(root)
    output("pytest", "-q", "-p", "no:cacheprovider", "tests/test_stamp.py")
    upstream = json.loads(output("sidecar", "schema"))["properties"]["upstreams"]["additionalProperties"]
    (section, off) = upstream["properties"]["stamp"]["anyOf"]
    assert section["properties"]["header"]["default"] == "x-stamp"
    assert off == {"enum": ["off", False]}
    reference = output("sidecar", "schema", "--text")
    assert "upstreams.<name>.stamp (or off)\n" in reference
    assert "\n  Refuse requests without a stamp.\n" in reference
    with ending() as processes:
        app = App(tmp_path, "app").ready()
        processes.append(app)
        settings = {
            "bind": "127.0.0.1:0",
            "endpoints": [f"127.0.0.1:{app.port}"],
            "stamp": {},
            "routes": [{"match": {"path": "/free"}, "stamp": "off"}],
        }
        it = Sidecar(tmp_path, {"service": {"name": "s"}, "upstreams": {"tasks": settings}})
        processes.append(it)
        it.ready()
        assert ask(it.port("tasks"), {}) == (402, "not_stamped")
        assert ask(it.port("tasks"), {"x-stamp": "1"}) == (200, "")
        assert ask(it.port("tasks"), {}, "/free") == (200, "")
        assert 'sidecar_stamp_missing_total{direction="outbound",upstream="tasks"} 1.0' in str(
            get(f"{it.admin}/metrics")[1]
        )
        assert get(f"{it.admin}/upstreams/tasks")[1]["stats"]["filters"]["stamp"] == {
            "missing": 1, "header": "x-stamp",
        }  # fmt: skip
        assert get(f"{it.admin}/config")[1]["upstreams"]["tasks"]["stamp"] == {"header": "x-stamp"}
        assert re.search(r"^tasks +stamp +missing +1$", output("sidecar", "status", "--admin", it.admin), re.M)
