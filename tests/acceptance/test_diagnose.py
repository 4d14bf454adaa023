"""A sidecar of which nearly everything is broken: ``sidecar diagnose`` names each, and each change was told once."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from support.deletion import delete
from support.patience import PATIENCE
from support.processes import App, Sidecar, command, ending, free_port, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ


def diagnose(sidecar: Sidecar, *more: str) -> tuple[int, str]:
    """Exit code, and what is printed."""
    return command(sidecar.log.parent, "diagnose", "--admin", sidecar.admin, *more)


def post(url: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def upstream(*endpoints: Any, **more: Any) -> dict[str, Any]:
    known = {"endpoints": list(endpoints)} if endpoints else {}
    return {"bind": "127.0.0.1:0", "retry": "off", **known, **more}


def configuration(folder: Path, app: App, silent: int, broker: int) -> dict[str, Any]:
    amqp = {"protocol": "amqp"}
    peer = {"address": f"127.0.0.1:{free_port()}", "sidecar": True}
    login = {"username": "guest", "password": "wrong-and-secret"}
    return {
        "service": {
            "name": "web", "address": "127.0.0.1", "app": f"127.0.0.1:{free_port()}", "check": {"interval": "500ms"},
        },
        "inbound": {"bind": "127.0.0.1:0"},
        "registry": f"directory://{folder / 'registry'}",
        "upstreams": {
            "well": upstream(f"127.0.0.1:{app.port}"),
            "refused": upstream(f"127.0.0.1:{free_port()}"),
            "silent": upstream(f"127.0.0.1:{silent}"),
            "nowhere": upstream("no-such-host.invalid:80"),
            "nobody": upstream(discover={"service": "nobody", "tag": "gpu"}),
            "failing": upstream(
                f"127.0.0.1:{app.port}", circuit_breaker={"failure_threshold": 1, "reset_timeout": "1h"}
            ),
            "held": upstream(f"127.0.0.1:{app.port}"),
            "gone": upstream(peer),
            "stranger": upstream(f"127.0.0.1:{broker}", **amqp, amqp={"credentials": login}),
            "outsider": upstream(
                f"127.0.0.1:{broker}", **amqp,
                amqp={"credentials": GUEST, "vhosts": ["elsewhere"]},
            ),
            "stored": upstream(
                f"127.0.0.1:{broker}", **amqp,
                amqp={"credentials": GUEST, "spool": {"path": str(folder / "spool")}},
            ),
        },
    }  # fmt: skip


#: Check and upstream → words of what is seen, and of what to do next.
EXPECTED: dict[tuple[str, str | None], tuple[str, str]] = {
    ("app", None): ("connect to 127.0.0.1", "is the app running"),
    ("connect", "refused"): ("connection refused: nothing listens there", "start what should listen there"),
    ("answers", "silent"): ("takes connections and has not answered", "hangs"),
    ("endpoints", "nowhere"): ("no-such-host.invalid does not resolve", "DNS"),
    ("endpoints", "nobody"): ("no healthy instance of 'nobody' with the tag 'gpu'", "registered"),
    ("breaker", "failing"): ("it is open: 1 failure in a row", "mend what fails"),
    ("breaker", "held"): ("held open by ops, until 2", "breaker/auto"),
    ("peers", "gone"): ("sidecars are gone: 127.0.0.1", "start that sidecar"),
    ("broker", "stranger"): ("refuses the login of 'guest'", "amqp.credentials"),
    ("broker", "outsider"): ("the virtual host 'elsewhere'", "set_permissions"),
    ("registry", None): ("has not answered for", "is it running"),
    ("file", None): ("differs from what runs in 1 key: drain.timeout: 30 → 7", "reload"),
    ("disk", None): ("cannot be written", "free room"),
}


def test_each_breakage_is_named_and_each_change_is_told_once(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, ending() as processes:
        app = App(tmp_path, "app")
        config = configuration(tmp_path, app, silent.getsockname()[1], rabbitmq.port)
        sidecar = Sidecar(tmp_path, config)
        processes += [app, sidecar]
        app.ready()
        sidecar.ready()

        wait_for(lambda: "✓ answers" in diagnose(sidecar, "well")[1], "it answers")
        code, text = diagnose(sidecar, "well")
        assert code == 1
        assert "✗ app" in text

        url = f"http://127.0.0.1:{sidecar.port('failing')}/status/500"
        wait_for(lambda: get(url)[0] == 503, "the breaker is open")
        assert get(f"http://127.0.0.1:{sidecar.port('refused')}/")[0] == 502
        assert get(f"http://127.0.0.1:{sidecar.port('nobody')}/")[0] == 503
        post(f"{sidecar.admin}/upstreams/held/breaker/open?by=ops&reason=moving&for=1h")
        status, body = get(f"http://127.0.0.1:{sidecar.port('held')}/")
        assert (status, body["error"]) == (503, "circuit_open")
        assert "held open by ops, until 2" in body["message"]
        assert body["message"].endswith(": moving")
        assert diagnose(sidecar, "no-such-upstream")[0] == 2

        (tmp_path / "registry").rename(tmp_path / "away")
        delete(tmp_path / "spool")
        (tmp_path / "spool").touch()  # or the spool makes its folder again, and all is well
        wait_for(lambda: not get(f"{sidecar.admin}/health")[1]["registry"]["up"], "the registry is away")
        sidecar.file.write_text(
            yaml.safe_dump({**config, "admin": {"bind": "127.0.0.1:0"}, "drain": {"timeout": "7s"}})
        )
        wait_for(lambda: unnamed(sidecar) == [], lambda: f"each is named: {unnamed(sidecar)}")
        used = len(os.listdir(f"/proc/{sidecar.pid}/fd"))
        _, most = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (used + 14, most))
        text = diagnose(sidecar, "nobody")[1]
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (most, most))
        assert "✗ descriptors" in text
        assert "→ raise the limit" in text
        assert post(f"{sidecar.admin}/reload")["changes"] == ["drain: changed"]
        sidecar.file.write_text("service: {nam: web}")
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded" in sidecar.output(), "the file is refused")
        urllib.request.urlopen(urllib.request.Request(f"{sidecar.admin}/access-log", b"all", method="PUT")).close()
        told_once(sidecar)
    code, text = diagnose(sidecar)
    assert code == 1
    assert "✗ admin" in text
    assert "is the sidecar running?" in text


def unnamed(sidecar: Sidecar) -> list[str]:
    """What is not named as it should be. On a machine that is busy, what is well may not answer in time at first."""
    code, text = diagnose(sidecar, "--json")
    found = json.loads(text)
    assert (code, found["well"]) == (1, False)
    assert "wrong-and-secret" not in text
    bad = {(it["check"], it["upstream"]): it for it in found["findings"] if it["result"] == "bad"}
    lacking = [f"{key} is good" for key in EXPECTED if key not in bad]
    for key, (seen, step) in EXPECTED.items():
        if key in bad and not (seen in bad[key]["evidence"] and step in bad[key]["step"]):
            lacking.append(str(bad[key]))
    return [*lacking, *(f"{key} is bad" for key in bad if key[1] == "well")]


def told_once(sidecar: Sidecar) -> None:
    """Each event is one line of the log, and counted once."""

    def counts() -> list[dict[str, int]]:
        events = Counter(event["kind"] for event in get(f"{sidecar.admin}/events")[1]["events"])
        page = get(f"{sidecar.admin}/metrics")[1].splitlines()
        metrics = {
            x[27:-2]: int(float(n)) for x, _, n in (line.rpartition(" ") for line in page) if "events_total{" in x
        }
        lines = Counter(json.loads(line).get("event") for line in sidecar.output().splitlines() if '"event":' in line)
        return [dict(events), {kind: n for kind, n in metrics.items() if n}, dict(lines)]

    wait_for(lambda: (found := counts())[0] == found[1] == found[2], lambda: f"all are told once: {counts()}")
    kinds = counts()[0]
    wanted = "app breaker ejection endpoints name ready registry reload reload_refused setting"
    assert kinds.keys() >= set(wanted.split()), kinds
