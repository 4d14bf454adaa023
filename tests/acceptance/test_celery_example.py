"""``examples/celery`` as its README tells it: a worker, Flower and a user of them, behind the sidecar of that example.
``AMQP_DIRECT=1`` has the same without the sidecar."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.patience import PATIENCE
from support.processes import ROOT, Process, Sidecar, ending, free_port, get, wait_for
from support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.costly

FOLDER = ROOT / "examples" / "celery"
#: Whoever else has workers at the same broker is not to be seen in Flower.
VHOST = "celery-example"
QUEUES = ("ai.inference", "ai.training", "agents.tasks", "monitoring.events")


class Example:
    """Where its users dial, and how to start one."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.env = {
            "BROKER": f"amqp://guest:guest@127.0.0.1:{port}/{VHOST}",
            "C_FORCE_ROOT": "1",
            "FLOWER_UNAUTHENTICATED_API": "1",
            "PYTHONPATH": str(FOLDER),
            "PYTHONWARNINGS": "ignore",
        }

    def celery(self, name: str, *arguments: str) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "platform_tasks", name, *arguments]
        return Process(command, self.folder / f"{name}.log", self.env)

    def ask(self) -> str:
        """What ``ask.py`` prints."""
        done = subprocess.run(
            [sys.executable, str(FOLDER / "ask.py")],
            env={**os.environ, **self.env}, capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def settings(rabbitmq: RabbitMQ, folder: Path) -> dict[str, str]:
    """As the README says them."""
    spool = str(folder / "spool")
    account = {"RABBITMQ_USER": "guest", "RABBITMQ_PASSWORD": "guest"}
    return {"RABBITMQ": f"127.0.0.1:{rabbitmq.port}", **account, "SPOOL": spool}


@pytest.fixture
def example(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Example]:
    rabbitmq.add_vhost(VHOST)
    with ending() as processes:
        port = rabbitmq.port
        if os.environ.get("AMQP_DIRECT") != "1":
            config = yaml.safe_load((FOLDER / "sidecar.yaml").read_text())
            config["upstreams"]["rabbitmq"]["bind"] = "127.0.0.1:0"
            sidecar = Sidecar(tmp_path, config, env=settings(rabbitmq, tmp_path))
            processes.append(sidecar)
            port = sidecar.ready().port("rabbitmq")
        yield Example(tmp_path, port)
    rabbitmq.delete_vhost(VHOST)


def test_its_file_is_right(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar", "check", str(FOLDER / "sidecar.yaml")]
    env = {**os.environ, **settings(rabbitmq, tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_routes_priorities_and_flowers_pages(example: Example) -> None:
    port = free_port()
    worker = example.celery("worker", "-c", "1", "-l", "info", "-n", "w@here")
    flower = example.celery("flower", "--address=127.0.0.1", f"--port={port}")
    with ending(worker, flower):
        wait_for(lambda: "w@here ready" in worker.output(), worker.output)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: get(f"{url}/api/workers?status=1")[1] == {"w@here": True}, flower.output)
        assert example.ask().splitlines() == [
            "ai.inference.generate: hello!",
            "ai.training.finetune:  llama, finer",
            "agents.plan:           ['think about lunch', 'do lunch']",
            "done in this order:    priority 9, priority 5, priority 1",
            f"w@here serves {', '.join(sorted(QUEUES))}",
        ]
        told = {(it["name"], it["state"]) for it in get(f"{url}/api/tasks")[1].values()}
        assert told == {
            ("ai.inference.generate", "SUCCESS"),
            ("ai.training.finetune", "SUCCESS"),
            ("agents.plan", "SUCCESS"),
        }
        pages = {
            "/workers": "w@here",
            "/worker/w@here": "ai.training",
            "/tasks": "Tasks",
            "/broker": "Broker",
        }
        for path, text in pages.items():
            status, body = get(url + path)
            assert status == 200, (path, body)
            assert text in str(body), (path, body)
