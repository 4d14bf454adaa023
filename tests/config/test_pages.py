"""Configurations that pages show are accepted: those of the README, and of the pages about coming from elsewhere. The
name of a service and a registry are added where they have none; secrets are in files that only others have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sidecar.config.load import load_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "migrate").glob("*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```yaml\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda it: it.stem)
def test_what_a_page_shows_is_a_configuration(page: Path) -> None:
    found = [re.sub(rf"^{it['indent']}", "", it["text"], flags=re.MULTILINE) for it in BLOCK.finditer(page.read_text())]
    assert found
    for block in found:
        text = re.sub(r"\{file: [^}]*\}", "secret", block)
        shown = {"service": {"name": "shop"}, "registry": "consul://127.0.0.1:8500", **yaml.safe_load(text)}
        load_text(yaml.safe_dump(shown), str(page), {})
