"""A rehearsal's answer, beside what a real run with the same settings does."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.main import main
from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, get

#: Bursts far above what the limits let through; what they give back meanwhile is next to nothing.
ROUNDS = 4
PATHS = ("/who?plain", "/who?plain", "/api/v1/tasks", "/free/tasks")
BURST, API_BURST = 60, 11


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with ending(App(tmp_path_factory.mktemp("app"), "shop")) as running:
        found = running[0]
        assert isinstance(found, App)
        yield found.ready()


def config(app: App, **policies: Any) -> dict[str, Any]:
    shop = {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app.port}"], **policies}
    return {"service": {"name": "edge"}, "upstreams": {"shop": shop}}


#: Other limits, one of them on a route, and a route without.
LIMITED: dict[str, Any] = {
    "rate_limit": {"rate": "1/m", "burst": BURST},
    "routes": [
        {"match": {"path": "/api/v1/*"}, "rate_limit": {"rate": "1/m", "burst": API_BURST}},
        {"match": {"path": "/free/*", "methods": ["GET"]}, "rate_limit": "off"},
    ],
}


def load(sidecar: Sidecar) -> Counter[tuple[str, int]]:
    """Send it, and count paths and statuses."""
    found: Counter[tuple[str, int]] = Counter()
    conn = http.client.HTTPConnection("127.0.0.1", sidecar.port("shop"), timeout=PATIENCE)
    for _ in range(ROUNDS):
        for path in PATHS * 20:
            conn.request("GET", path)
            answer = conn.getresponse()
            answer.read()
            found[path, answer.status] += 1
    conn.close()
    return found


def rehearse(sidecar: Sidecar, text: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{sidecar.admin}/rehearse", text.encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_it_says_what_a_real_run_does(app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = config(app, **LIMITED)
    with ending(Sidecar(tmp_path, config(app))) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        before = load(sidecar)
        requests = sum(before.values())
        assert not any(status == 429 for _, status in before)
        status, told = rehearse(sidecar, yaml.safe_dump(other))
        assert status == 200, told
        assert told["decisions"] == requests
        assert told["agreement"] == 1.0, told
        (shop,) = told["upstreams"]
        # The command says the same.
        file = tmp_path / "new.yaml"
        file.write_text(yaml.safe_dump(other))
        assert main(["rehearse", str(file), "--admin", sidecar.admin]) == 1
        said = capsys.readouterr().out
        assert "rejected" in said
        assert "rate_limit" in said
        # The real thing.
        admin = {"admin": yaml.safe_load(sidecar.file.read_text())["admin"]}
        sidecar.file.write_text(yaml.safe_dump({**other, **admin}))
        urllib.request.urlopen(urllib.request.Request(f"{sidecar.admin}/reload", method="POST"), timeout=PATIENCE)
        after = load(sidecar)
        refused = sum(count for (_, status), count in after.items() if status == 429)
        assert abs(shop["after"]["rejected"]["rate_limited"] - refused) <= 0.02 * requests
        assert shop["changed"]["rejected"] == shop["after"]["rejected"]["rate_limited"]
        assert shop["after"]["routes"] == {"routes[0] /api/v1/*": requests // 4, "routes[1] /free/*": requests // 4}
        assert not after["/free/tasks", 429]
        # What was recorded meanwhile, against the settings that it was decided by, and against those from before.
        _, again = rehearse(sidecar, yaml.safe_dump(config(app)))
        assert again["agreement_of"] == requests
        assert again["agreement"] >= 0.98
        assert again["changed"]["admitted"] >= refused
        for example in told["examples"]:
            assert "?" not in example["path"]
            assert example["setting"]


def test_what_is_answered_instead(app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ending(Sidecar(tmp_path, config(app) | {"rehearsal": {"records": 0}})) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        status, told = rehearse(sidecar, "{}")
        assert (status, told["error"]) == (503, "not_recorded")
        assert get(f"{sidecar.admin}/rehearse")[1]["remembered"] == 0
    with ending(Sidecar(tmp_path, config(app), "second")) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        status, told = rehearse(sidecar, "service: {name: edge}\nupstreams: {shop: {bind: x, retry: {max_atempts: 3}}}")
        assert status == 422
        assert {it["path"] for it in told["problems"]} >= {"upstreams.shop.bind", "upstreams.shop.retry.max_atempts"}
        status, told = rehearse(sidecar, yaml.safe_dump(config(app)))
        assert (status, told["decisions"], told["agreement"]) == (200, 0, None)
        file = tmp_path / "same.yaml"
        file.write_text(yaml.safe_dump(config(app)))
        assert main(["rehearse", str(file), "--admin", sidecar.admin]) == 0
        assert "nothing has been recorded yet" in capsys.readouterr().out
        file.write_text("service: {nam: edge}")
        assert main(["rehearse", str(file), "--admin", sidecar.admin]) == 2
        assert "service.nam" in capsys.readouterr().err
        assert main(["rehearse", str(sidecar.file), "--admin", "http://127.0.0.1:1"]) == 4
