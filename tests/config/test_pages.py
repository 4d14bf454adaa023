"""Configurations that pages show are accepted, and so is what a sidecar shows of them, which means the same. What a
block leaves to its reader is added: a name, a registry, addresses; secrets are in files that only others have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.config.amqp_schema import AMQP
from sidecar.config.load import load_text
from sidecar.config.schema import CONFIG, UPSTREAM
from sidecar.config.show import effective, text

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```yaml\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
#: Blocks that are for another program begin so.
FOREIGN: Final = ("scrape_configs:",)


class Loader(yaml.SafeLoader):
    """What stands there, with ``on`` as the key that it is."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return {"on" if key is True else key: it for key, it in super().construct_mapping(node, deep).items()}


def blocks(page: Path) -> list[str]:
    found = [re.sub(rf"^{it['indent']}", "", it["text"], flags=re.MULTILINE) for it in BLOCK.finditer(page.read_text())]
    return [re.sub(r"\{file: [^}]*\}", '"***"', it) for it in found if not it.startswith(FOREIGN)]


def whole(block: dict[str, Any]) -> dict[str, Any]:
    """The file of which a block is all, an upstream, or the section ``amqp`` of one."""
    if not block.keys() & CONFIG.keys.keys():
        upstream = block if block.keys() <= UPSTREAM.keys.keys() else {"amqp": block}
        amqp = upstream.get("amqp", {})
        assert amqp.keys() <= AMQP.keys.keys()
        if any("expires" in rule for rule in amqp.get("publish", ())):
            amqp.update({"credentials": {"username": "a", "password": "***"}, "spool": {"path": "/s"}} | amqp)
        block = {"upstreams": {"tasks": upstream}}
    shown = {"service": {"name": "shop"}, "registry": "consul://127.0.0.1:8500", **block}
    if "inbound" in shown or "redirect" in shown:
        shown["service"] = {"app": "127.0.0.1:8080", **shown["service"]}
        shown["inbound"] = {"bind": "0.0.0.0:10030", **shown.get("inbound", {})}
    for port, upstream in enumerate(shown.get("upstreams", {}).values(), 20_000):
        upstream.setdefault("bind", f"127.0.0.1:{port}")
        if "amqp" in upstream:
            upstream["protocol"] = "amqp"
        upstream.pop("filters", None)  # of packages that are not installed here
        splits = [it["split"] for it in (upstream, *upstream.get("routes", ())) if it.get("split")]
        if splits:
            upstream.setdefault("subsets", {name: {"tag": name} for split in splits for name in split})
    return shown


@pytest.mark.parametrize("page", [it for it in PAGES if blocks(it)], ids=lambda it: it.stem)
def test_what_a_page_shows_is_a_configuration(page: Path) -> None:
    for block in blocks(page):
        config = load_text(yaml.safe_dump(whole(yaml.load(block, Loader)), sort_keys=False), str(page), {})
        again = load_text(text(effective(config)), f"what is shown of {page}", {})
        assert again == config, block
