"""Celery through the sidecar's AMQP port, with a restart of the broker in the middle: two workers, beat, Flower and a
user of theirs; a port without a spool and one with. ``AMQP_DIRECT=1`` has the same without a sidecar, too, which is the
measure: what is lost there may be lost here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.amqp_clients.restart import Site
from support.processes import Sidecar, ending, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar

pytestmark = pytest.mark.costly

PORTS = ["direct"] if os.environ.get("AMQP_DIRECT") == "1" else ["relayed", "spooled"]
QUEUES = ("classic", "quorum")
#: Seconds after which the workers are there again, at the latest.
BACK = 30.0


@dataclass
class Story:
    """What became of one site."""

    site: Site
    sidecar: Sidecar
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    ticks: int = 0  # how many beat had sent when the broker was back
    quiet: dict[str, int] = field(default_factory=dict)  # how much each worker had written when the broker went

    @property
    def accepted(self) -> set[str]:
        """The tasks for which ``apply_async`` has returned, in the middle of the restart or not."""
        return set(self.said["calm"]["accepted"])

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.said["after"]["facts"]
        return found


@pytest.fixture(scope="module")
def stories(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    """All sites live through the same restart, each on a virtual host of its own."""
    folder = tmp_path_factory.mktemp("celery")
    server = rabbitmq
    with ending(Sidecar(folder, _config(server, folder))) as processes, ExitStack() as stack:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        found: dict[str, Story] = {}
        server.add_vhost(*PORTS)
        stack.callback(server.delete_vhost, *PORTS)
        stack.callback(server.start_app)  # whatever goes wrong while it is away
        for name in PORTS:
            port = server.port if name == "direct" else sidecar.port(name)
            # With a spool, what has been sent is safe without confirms.
            site = Site(folder / name, f"amqp://guest:guest@127.0.0.1:{port}/{name}", confirm=name != "spooled")
            stack.callback(site.close)
            found[name] = Story(site, sidecar)
        _tell(found, server)
        yield found


def _config(server: RabbitMQ, folder: Path) -> dict[str, Any]:
    config = behind_sidecar(server.port)
    plain = config["upstreams"].pop("rabbitmq")
    spool = {"credentials": GUEST, "spool": {"path": str(folder / "spool")}}
    config["upstreams"] = {"relayed": plain, "spooled": {**plain, "amqp": spool}}
    return config


def _tell(stories: dict[str, Story], server: RabbitMQ) -> None:
    everyone = list(stories.values())

    def ask(word: str, *some: Story) -> None:
        for story in some or everyone:
            story.site.user.tell(word)
        for story in some or everyone:
            story.said[word] = story.site.user.answer()

    for story in everyone:
        story.site.ready()
    ask("before")
    for story in everyone:
        _wait_for_runs(story, story.said["before"]["facts"]["gates"].values(), "the late ones have begun")
        wait_for(partial(_online, story), "Flower sees the workers")
    ask("steady")
    for story in everyone:
        story.quiet = {worker.log.name: len(worker.output()) for worker in story.site.workers}
    server.stop_app()  # as a restart is for clients, at half the cost
    ask("away")
    if "spooled" in stories:
        ask("ask", stories["spooled"])
    for story in everyone:  # these end while nobody can be told
        for queue in QUEUES:
            story.site.open_gate(f"{queue}.away")
    server.start_app()
    ask("again")
    for story in everyone:
        story.ticks = len(story.site.ticks())
        for queue in QUEUES:
            story.site.open_gate(f"{queue}.after")
    ask("calm")
    ask("after")
    if "spooled" in stories:  # else the queue of the answers was lost, as it is without a sidecar
        ask("gates", stories["spooled"])


def _online(story: Story) -> bool:
    return story.site.online() == {"classic@here": True, "quorum@here": True}


def _succeeded(story: Story, task: str) -> bool:
    return story.site.seen_by_flower(task) == "SUCCESS"


def _wait_for_runs(story: Story, tasks: Iterable[str], text: str) -> None:
    def missing() -> set[str]:
        return set(tasks) - set(story.site.counts())

    def told() -> str:
        seen = {task: story.site.worker_lines(task) for task in missing()}
        return f"{text}; not {seen}, and at the port {get(story.sidecar.admin + '/amqp')[1]['upstreams']}"

    wait_for(lambda: not missing(), told)


@pytest.fixture(params=PORTS)
def story(request: pytest.FixtureRequest, stories: dict[str, Story]) -> Story:
    return stories[request.param]


def test_its_user_can_do_everything_before_and_after(story: Story) -> None:
    """Results, ETAs, more ETAs than any bound, ``inspect``, ``revoke``, ``rate_limit`` and ``pool_grow``."""
    problems = {f"{word}: {step}": text for word, said in story.said.items() for step, text in said["problems"].items()}
    assert problems == {}
    assert story.facts["back"] < BACK


def test_what_was_accepted_runs(story: Story) -> None:
    _wait_for_runs(story, story.accepted, "all that was accepted has run")


def test_what_was_settled_runs_once(story: Story) -> None:
    """What was not when the broker went may run twice: the gates, and what an ETA keeps at the worker. What was sent
    just then is with the broker, which delivers it again, and in the spool, too, as nobody had confirmed it. So may
    everything that a broker confirms so late that the port takes it for dead, as it then says."""
    _wait_for_runs(story, story.accepted, "all that was accepted has run")
    counts = story.site.counts()
    spooled = story.site.folder.name == "spooled"
    once = 2 if spooled and "answers nothing any more" in story.sidecar.output() else 1
    assert {task: counts[task] for task in story.facts["once"] if not 1 <= counts[task] <= once} == {}
    most = 3 if spooled else 2
    assert {task: counts[task] for task in story.accepted if counts[task] > most} == {}
    assert [counts[task] for task in story.facts["revoked"]] == [0] * 4
    for run in story.site.runs():
        assert run.at >= story.facts["due"].get(run.task, 0.0)


def test_beat_goes_on(story: Story) -> None:
    wait_for(lambda: len(story.site.ticks()) > story.ticks + 1, "beat sends after the restart")
    _wait_for_runs(story, story.site.ticks(), "what beat sends runs")


def test_flower_sees_the_workers_again(story: Story) -> None:
    wait_for(lambda: _online(story), "both are online")
    for task in story.facts["once"][-2:]:
        wait_for(partial(_succeeded, story, task), "Flower knows of what has just run")


@pytest.mark.skipif("spooled" not in PORTS, reason="there is no spool without a sidecar")
def test_with_a_spool_nobody_notices(stories: dict[str, Story]) -> None:
    story = stories["spooled"]
    assert story.said["calm"]["refused"] == 0
    for worker in story.site.workers:
        since = worker.output()[story.quiet[worker.log.name] :]
        noticed = [line for line in since.splitlines() if "CRITICAL" in line or "Connection" in line]
        assert noticed == [], [line for line in story.sidecar.output().splitlines() if '"spooled"' in line][-300:]
