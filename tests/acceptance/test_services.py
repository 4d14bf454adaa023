"""The two services of ``examples`` and their sidecars, as real processes beside a real Consul, RabbitMQ and Redis: what
they promise, and how they come through the ends of what they need. ``python -m bench.services`` has the figures; with
``SIDECAR_SOAK=1`` this has 1000 tasks under a restart of RabbitMQ instead of 100, and fifty tasks a second."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.services import killed, paced, restarted
from support.collector import Collector
from support.processes import get, wait_for
from support.rabbitmq import RabbitMQ
from support.services import TASKS, WORKSPACES, Services, ask, services

pytestmark = pytest.mark.costly

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TEXT = "Collect the logs and the metrics, then find the cause"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitMQ, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("services"), rabbitmq, collector.url) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_workspaces(site: Services) -> None:
    site.destroy_all()
    for it in ("task.decomposition.result", "task.decomposition.error", "workspace.status"):
        site.rabbitmq.purge(it, "/sutazai")


def test_a_task_by_message_is_one_trace_from_the_caller_to_the_result(site: Services, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    assert site.task(TEXT, wait=False, id="traced", **headers) == (
        202, {"id": "traced", "status": "queued", "result": "task.decomposition.result"},
    )  # fmt: skip
    ((about, told),) = site.take("task.decomposition.result")
    assert (about.message_id, about.correlation_id) == ("traced.result", "traced")
    assert about.headers["traceparent"].split("-")[1] == TRACE
    assert [it["title"] for it in told["steps"]] == ["Collect the logs", "the metrics", "find the cause"]

    def spans() -> dict[str, list[object]]:
        found: dict[str, list[object]] = {}
        for it in collector.spans:
            if it.trace_id.hex() == TRACE:
                found.setdefault(it.name, []).append(it)
        return found

    # In, into the queue, out of it, to the model, and the result: all of it is this caller's.
    wanted = {f"POST {TASKS}*": 1, "publish workflows.topic": 2, "process workflows.topic": 1, "POST ollama": 1}
    wait_for(lambda: {name: len(spans().get(name, [])) for name in wanted} == wanted, lambda: str(spans().keys()))


def test_over_http_there_is_a_graph_at_once_and_a_text_without_one_is_refused(site: Services) -> None:
    wait_for(lambda: site.task(TEXT)[1].get("mode") == "model", "the model is loaded, and quick enough")
    assert site.task("x (needs 7)")[0] == 200, "the model's steps are the model's"
    status, told = site.task("  ")
    assert (status, told["error"]) == (400, "bad_request")
    site.publish("task.decomposition.request", {"nothing": "to do"}, "odd")
    ((about, refused),) = site.take("task.decomposition.error")
    assert (about.correlation_id, refused["id"], refused["error"]) == ("odd", "odd", "bad_request")
    _, metrics = get(f"{site.tasks}/metrics")
    assert 'task_decomposition_duration_count{mode="model"}' in metrics


def test_without_ollama_there_is_the_simple_mode_for_both(site: Services) -> None:
    site.processes["ollama"].kill()
    for _ in range(8):  # until its breaker is open, and afterwards
        status, told = site.task(TEXT)
        assert (status, told["mode"], told["levels"]) == (200, "simple", 2)
    site.publish("task.decomposition.request", {"task": TEXT}, "simple")
    ((_, told),) = site.take("task.decomposition.result")
    assert (told["id"], told["mode"]) == ("simple", "simple")
    site.start_ollama()
    wait_for(lambda: site.task(TEXT)[1]["mode"] == "model", "the model is asked again")


def test_ten_workspaces_and_no_more(site: Services) -> None:
    made = [site.workspace(owner="a") for _ in range(10)]
    assert {status for status, _ in made} == {201}
    status, told = site.workspace(owner="b")
    assert (status, told["error"], told["limit"]) == (429, "workspace_limit", 10)
    assert site.workspace(owner="b", shared=True)[1]["kind"] == "shared"
    site.take("workspace.status", 10)

    site.publish("workspace.create", {"owner": "c"}, "one-more")
    ((about, told),) = site.take("workspace.status")
    assert (about.correlation_id, told["status"], told["error"]) == ("one-more", "refused", "workspace_limit")
    site.publish("workspace.destroy", {"id": made[0][1]["id"]}, "less")
    ((_, told),) = site.take("workspace.status")
    assert told == {"id": made[0][1]["id"], "status": "destroyed"}
    site.publish("workspace.create", {"owner": "c"}, "one-more")
    ((_, told),) = site.take("workspace.status")
    assert (told["id"], told["status"]) == ("one-more", "created")
    assert "one-more" in site.all_workspaces()
    _, metrics = get(f"{site.workspaces}/metrics")
    assert 'workspace_creation_time_bucket{kind="process",le="5.0"}' in metrics


def test_what_runs_in_a_workspace_ends_with_it(site: Services) -> None:
    name = site.workspace()[1]["id"]
    assert site.run(name, "sh", "-c", "echo $HOME; env | grep -c AMQP") | {"seconds": 0} == {
        "exit": 1, "output": f"{site.folder.resolve()}/workspaces/{name}/home\n0\n", "seconds": 0,
    }  # fmt: skip
    running = threading.Thread(target=site.run, args=(name, "sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 1000"))
    running.start()
    wait_for(lambda: len(sleeping(name)) == 3, "three sleep")
    assert ask("DELETE", f"{site.workspaces}{WORKSPACES}/{name}")[0] == 204
    running.join()
    assert not sleeping(name)
    assert not (site.folder / "workspaces" / name).exists()


def test_workspaces_outlive_redis_which_is_waited_for(site: Services) -> None:
    before = {site.workspace()[1]["id"] for _ in range(3)}
    site.processes["redis"].terminate()
    found = []
    waiting = threading.Thread(target=lambda: found.append(site.workspace()))
    waiting.start()
    wait_for(
        lambda: site.sidecar_says("workspace_isolation", "redis")["stats"]["filters"]["wait"]["waiting"] == 1,
        "it waits",
    )
    site.start_redis()
    waiting.join()
    assert found[0][0] == 201
    killed(site, "workspace_isolation")  # what it knows afterwards it has from Redis
    assert site.all_workspaces() == before | {found[0][1]["id"]}


def test_no_task_is_lost_when_rabbitmq_restarts(site: Services) -> None:
    it = restarted(site, 1000 if SOAK else 100, 50, site.rabbitmq.restart_app)
    assert (it.accepted, it.refused, it.lost) == (1000 if SOAK else 100, 0, [])


def test_a_service_that_is_killed_is_back_and_what_was_handed_in_is_done(site: Services) -> None:
    it = killed(site, "task_decomposition")
    assert it.back < 30
    assert set(it.statuses) <= {200, 202}
    assert it.stored == it.delivered


def test_workspaces_of_a_service_that_is_killed_are_there_and_what_was_left_is_cleaned_up(site: Services) -> None:
    name = site.workspace()[1]["id"]
    url = f"{site.workspaces}{WORKSPACES}/{name}/run"
    threading.Thread(target=ask, args=("POST", url, {"argv": ["sleep", "1000"]}), daemon=True).start()
    wait_for(lambda: sleeping(name), "it sleeps")
    (site.folder / "workspaces" / "half-made").mkdir()
    it = killed(site, "workspace_isolation")
    assert it.back < 60
    assert site.all_workspaces() == {name}
    assert not sleeping(name)
    assert not (site.folder / "workspaces" / "half-made").exists()


@pytest.mark.parametrize("module", ["task_decomposition", "workspace_isolation"])
def test_sigterm_is_an_orderly_end(site: Services, module: str) -> None:
    assert site.processes[module].terminate() == 0
    assert '"ended"' in site.processes[module].output().splitlines()[-1]
    site.start_app(module)
    site.processes[module].ready()


@pytest.mark.skipif(not SOAK, reason="a minute: with SIDECAR_SOAK=1, on a machine that does nothing else")
def test_fifty_tasks_a_second(site: Services) -> None:
    asyncio.run(paced(site, 50, 2))
    assert asyncio.run(paced(site, 50, 60)).quantile(0.99) < 200


def sleeping(name: str) -> list[int]:
    """The processes of a workspace that sleep."""
    found = []
    for it in Path("/proc").glob("[0-9]*"):
        try:
            if f"WORKSPACE_ID={name}".encode() in (it / "environ").read_bytes().split(b"\0"):
                found += [int(it.name)] if (it / "comm").read_text() == "sleep\n" else []
        except OSError:  # it has ended
            pass
    return found
