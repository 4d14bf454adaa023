from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.agent.admin import metrics
from sidecar.config.errors import ConfigError
from sidecar.config.show import effective
from sidecar.http_queue.settings import QueueSettings
from support.agents import RunningAgent, ask, upstream
from support.configs import config_of, problem_of
from support.live import run
from support.processes import free_port

_FILE = """
service: {name: a}
upstreams:
  a:
    bind: 127.0.0.1:1
    endpoints: [127.0.0.1:2]
    queue: %s
    routes: [{match: {path: /x}, queue: %s}]
"""


def test_the_shortest_configuration() -> None:
    config = config_of(_FILE % ("off", "{spool: true}"))
    assert config.upstreams["a"].policies["queue"] is None
    assert config.upstreams["a"].routes[0].policies["queue"] == QueueSettings()
    shown = effective(config)["upstreams"]["a"]
    assert shown["queue"] == "off"
    assert shown["routes"][0]["queue"]["expires"] == 3600


@pytest.mark.parametrize(
    ("queue", "route", "path", "words"),
    [
        ("{spool: false}", "off", "upstreams.a.queue.spool", "not built"),
        ("{path: /a}", "{path: /b}", "upstreams.a.routes[0].queue.path", "another directory"),
        ("{path: /a}", "{}", "upstreams.a.routes[0].queue", "another directory"),
        ("{path: a}", "off", "upstreams.a.queue.path", ""),
        ("{in_order: true, concurrency: 2}", "off", "upstreams.a.queue.concurrency", "in_order"),
        ("{when: never}", "off", "upstreams.a.queue.when", ""),
    ],
)
def test_what_does_not_fit_is_refused(queue: str, route: str, path: str, words: str) -> None:
    problem = problem_of(_FILE % (queue, route))
    assert problem.path == path
    assert words in problem.text("")


def test_other_protocols_have_no_queue() -> None:
    text = "service: {name: a}\nupstreams: {a: {bind: 127.0.0.1:1, protocol: tcp, endpoints: [h:1], queue: {}}}"
    assert problem_of(text).path == "upstreams.a.queue"


def _with(path: Path, **queue: Any) -> dict[str, Any]:
    return upstream(f"127.0.0.1:{free_port()}", queue={"path": str(path), **queue})


def test_a_reload_changes_how_and_not_where(tmp_path: Path) -> None:
    async def refused(it: RunningAgent, **upstreams: Any) -> str:
        it.write(upstreams=upstreams)
        with pytest.raises(ConfigError) as error:
            await it.agent.reload()
        (problem,) = error.value.problems
        return problem.path

    async def main() -> None:
        one = _with(tmp_path / "q")
        plain = {key: value for key, value in one.items() if key != "queue"}
        async with RunningAgent(tmp_path, upstreams={"a": one, "b": plain}) as it:
            lane = it.agent.upstreams["a"].listener.queue.lanes[""]  # type: ignore[attr-defined]
            assert lane.settings.concurrency == 4
            changed = {**one, "queue": {**one["queue"], "concurrency": 9}}
            it.write(upstreams={"a": changed, "b": plain})
            assert await it.agent.reload() == ["upstreams.a: changed"]
            assert lane.settings.concurrency == 9
            elsewhere = {**one, "queue": {"path": str(tmp_path / "other")}}
            assert await refused(it, a=elsewhere, b=plain) == "upstreams.a"
            assert await refused(it, a=one, b=one) == "upstreams.b"
            moved = {**one, "bind": f"127.0.0.1:{free_port()}"}
            assert await refused(it, a=moved, b=plain) == "upstreams.a.bind"
            it.write(upstreams={"a": plain, "b": plain})
            assert await it.agent.reload() == ["upstreams.a: changed"]
            page = metrics(it.agent).render("")[0].decode()
            assert 'sidecar_queued_requests{upstream="a"} 0.0' in page
            assert 'upstream="b"} 0.0\n# HELP sidecar_queued_bytes' not in page

    run(main)


def test_a_folder_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    from sidecar.agent.lifecycle import StartError

    (tmp_path / "file").write_text("")

    async def main() -> None:
        with pytest.raises(StartError, match=r"a: requests cannot be queued: .*Not a directory"):
            async with RunningAgent(tmp_path, upstreams={"a": _with(tmp_path / "file")}):
                pass

    run(main)


def test_a_service_may_have_the_name_of_an_upstream(tmp_path: Path) -> None:
    queue = {"path": str(tmp_path / "q")}

    async def main() -> None:
        async with RunningAgent(
            tmp_path,
            service={"name": "web", "app": f"127.0.0.1:{free_port()}"},
            inbound={"bind": "127.0.0.1:0", "queue": queue},
            upstreams={"web": _with(tmp_path / "q", when="always")},
        ) as it:
            inbound = it.agent.inbound
            assert inbound is not None
            for port in (inbound.address.port, it.port("web")):
                status, fields, _ = await ask(port, "POST", "/", b"x")
                assert (status, fields["location"].startswith("/.sidecar/queue/")) == (202, True)
            page = metrics(it.agent).render("")[0].decode()
            assert page.count('sidecar_queued_requests{upstream="web"}') == 1
            assert 'sidecar_queued_total{upstream="web",outcome="queued"} 2.0' in page

    run(main)
