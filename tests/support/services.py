"""The two services of ``examples`` with their sidecars, as their files have them, beside a real Consul, RabbitMQ and
Redis and a stand-in for Ollama. The ports are others, so that it can run beside anything."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pika
import yaml

from support.consul import ConsulAgent
from support.patience import PATIENCE
from support.processes import ROOT, Process, Sidecar, free_port, get, wait_for
from support.rabbitmq import RabbitMQ
from support.servers import Redis

VHOST, EXCHANGE = "/sutazai", "workflows.topic"
TASKS, WORKSPACES = "/api/v1/tasks", "/api/v1/workspaces"


class _Loader(yaml.SafeLoader):
    """To which ``on`` is a word, as to the sidecar."""


_Loader.yaml_implicit_resolvers = {
    first: [it for it in resolvers if first not in "oO" or it[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Workload(Process):
    """A module of ``examples``."""

    def __init__(self, folder: Path, module: str, health: str, *arguments: str, **environment: str) -> None:
        self.health = health
        command = [sys.executable, "-m", f"examples.{module}", *arguments]
        super().__init__(command, folder / f"{module}.log", {"PYTHONPATH": str(ROOT), **environment})

    def ready(self) -> Self:
        def answers() -> bool:
            assert self.popen.poll() is None, f"it has ended:\n{self.output()}"
            return get(self.health)[0] == 200

        wait_for(answers, lambda: f"it serves:\n{self.output()}")
        return self


class Services:
    """All of it. ``tasks`` and ``workspaces`` are the addresses that others call: the sidecars' inbound ports."""

    def __init__(self, folder: Path, consul: ConsulAgent, rabbitmq: RabbitMQ, otlp: str = "") -> None:
        self.folder, self.consul, self.rabbitmq = folder, consul, rabbitmq
        self._otlp = otlp
        self.ollama_port, self.redis_port = free_port(), free_port()
        self._apps = {"task_decomposition": free_port(), "workspace_isolation": free_port()}
        self._dials: dict[str, dict[str, int]] = {}
        self.processes: dict[str, Process] = {}
        for name, port in (("ollama", self.ollama_port), ("rabbitmq", rabbitmq.port), ("redis", self.redis_port)):
            consul.register(name, f"{name}-1", port)
        define(rabbitmq)

    # -- its life

    def start(self) -> Self:
        self.start_redis()
        self.start_ollama()
        for module in self._apps:
            self.start_sidecar(module)
        for module in self._apps:
            self.sidecar(module).ready()
            self.start_app(module)
        for module in self._apps:
            self.processes[module].ready()
        wait_for(lambda: all(self.health(it).get("messages") == "open" for it in self._apps), "both consume")
        return self

    def close(self) -> None:
        for process in reversed(self.processes.values()):
            process.close()

    def start_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        more = ("--appendonly", "yes", "--appendfsync", "always")  # as deploy/redis has it: what it said yes to stays
        self.processes["redis"] = Redis(data, self.redis_port, *more).ready()

    def start_ollama(self, **options: float) -> None:
        given = {"port": self.ollama_port, "load": 0.1, "rate": 400, **options}
        arguments = [it for name, value in given.items() for it in (f"--{name}", str(value))]
        url = f"http://127.0.0.1:{self.ollama_port}/"
        self.processes["ollama"] = Workload(self.folder, "ollama_stand_in", url, *arguments).ready()

    def start_sidecar(self, module: str) -> None:
        self.processes[f"{module}-sidecar"] = Sidecar(self.folder, self._configuration(module), f"{module}-sidecar")

    def sidecar(self, module: str) -> Sidecar:
        found = self.processes[f"{module}-sidecar"]
        assert isinstance(found, Sidecar)
        return found

    def start_app(self, module: str) -> None:
        """Does not wait: what it is asked meanwhile is the sidecar's to answer."""
        port, dials = self._apps[module], self._dials[module]
        environment = {"PORT": str(port), "AMQP_PORT": str(dials["rabbitmq"])}
        if module == "task_decomposition":
            environment["OLLAMA_URL"] = f"http://127.0.0.1:{dials['ollama']}"
        else:
            environment |= {"REDIS_PORT": str(dials["redis"]), "WORKSPACES": str(self.folder / "workspaces")}
            environment["DOCKER_URL"] = f"http://127.0.0.1:{dials['docker']}"
        health = f"http://127.0.0.1:{port}/health"
        self.processes[module] = Workload(self.folder, module, health, **environment)

    def _configuration(self, module: str) -> dict[str, Any]:
        """That of the file, but for ports and folders."""
        text = (ROOT / "examples" / module / "sidecar.yaml").read_text()
        found: dict[str, Any] = yaml.load(text.replace("${SIDECAR_STATE:-/var/tmp", f"${{X:-{self.folder}"), _Loader)
        name = found["service"]["name"]
        found["service"] |= {"id": f"{name}-1", "address": "127.0.0.1", "app": f"127.0.0.1:{self._apps[module]}"}
        found["service"]["check"]["interval"] = "1s"
        found["registry"] = f"consul://127.0.0.1:{self.consul.http_port}"
        found["admin"] = {"bind": "127.0.0.1:0"}
        found["tracing"] = {"otlp": self._otlp}
        dials = self._dials.setdefault(module, {it: free_port() for it in ("inbound", *found["upstreams"])})
        found["inbound"]["bind"] = f"127.0.0.1:{dials['inbound']}"
        for upstream, section in found["upstreams"].items():
            section["bind"] = f"127.0.0.1:{dials[upstream]}"
        return found

    # -- what one asks it

    @property
    def tasks(self) -> str:
        return f"http://127.0.0.1:{self._dials['task_decomposition']['inbound']}"

    @property
    def workspaces(self) -> str:
        return f"http://127.0.0.1:{self._dials['workspace_isolation']['inbound']}"

    def health(self, module: str) -> dict[str, Any]:
        """What the app says of itself."""
        status, found = get(f"http://127.0.0.1:{self._apps[module]}/health")
        return found if status == 200 else {}

    def sidecar_says(self, module: str, upstream: str) -> dict[str, Any]:
        """What a sidecar's admin API says of an upstream."""
        found: dict[str, Any] = get(f"{self.sidecar(module).admin}/upstreams/{upstream}")[1]
        return found

    def task(self, text: str, wait: bool = True, **fields: str) -> tuple[int, Any]:
        """Have a task decomposed."""
        more = "" if wait else "?wait=no"
        return ask("POST", self.tasks + TASKS + more, {"task": text, "id": fields.pop("id", None)}, **fields)

    def workspace(self, **given: Any) -> tuple[int, Any]:
        """Ask for a workspace."""
        return ask("POST", self.workspaces + WORKSPACES, given)

    def run(self, name: str, *argv: str) -> dict[str, Any]:
        """What a command in a workspace came to."""
        status, found = ask("POST", f"{self.workspaces}{WORKSPACES}/{name}/run", {"argv": argv})
        assert status == 200, found
        assert isinstance(found, dict)
        return found

    def all_workspaces(self) -> set[str]:
        status, found = ask("GET", self.workspaces + WORKSPACES)
        assert status == 200, found
        return {it["id"] for it in found["workspaces"]}

    def destroy_all(self) -> None:
        for name in self.all_workspaces():
            assert ask("DELETE", f"{self.workspaces}{WORKSPACES}/{name}")[0] == 204

    def publish(self, key: str, document: object, name: str, headers: Mapping[str, str] | None = None) -> None:
        """A message straight to the broker, as from somebody with a sidecar of their own."""
        with self.rabbitmq.channel(VHOST) as channel:
            channel.confirm_delivery()
            about = pika.BasicProperties(message_id=name, delivery_mode=2, headers=dict(headers or {}))
            channel.basic_publish(EXCHANGE, key, json.dumps(document).encode(), about, mandatory=True)

    def take(self, queue: str, count: int = 1, seconds: float = PATIENCE) -> list[tuple[Any, Any]]:
        """The next messages of a queue, taken out: properties and documents."""
        found: list[tuple[Any, Any]] = []
        with self.rabbitmq.channel(VHOST) as channel:

            def enough() -> bool:
                while len(found) < count:
                    method, properties, body = channel.basic_get(queue, auto_ack=True)
                    if method is None:
                        return False
                    found.append((properties, json.loads(body)))
                return True

            wait_for(enough, lambda: f"{count} messages in {queue}; it had {len(found)}", seconds)
        return found


def ask(method: str, url: str, document: Any = None, **fields: str) -> tuple[int, Any]:
    """Status and document of an answer; (0, text): there was none."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else text.decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def define(rabbitmq: RabbitMQ) -> None:
    """The virtual host ``/sutazai`` of ``deploy/rabbitmq/definitions.json``, with one member for each queue."""
    rabbitmq.add_vhost(VHOST)
    given = json.loads((ROOT / "deploy" / "rabbitmq" / "definitions.json").read_text())
    kept = {kind: [it for it in every if it.get("vhost") == VHOST] for kind, every in given.items() if kind != "vhosts"}
    file = rabbitmq.folder / "definitions.json"
    file.write_text(json.dumps(kept))
    rabbitmq.eval(f'{{ok, Text}} = file:read_file("{file}"), ok = rabbit_definitions:import_raw(Text).')


@contextmanager
def services(folder: Path, rabbitmq: RabbitMQ, otlp: str = "") -> Iterator[Services]:
    """All of it, ready. The broker is the caller's, and has the virtual host no more afterwards."""
    with ConsulAgent() as consul:
        site = Services(folder, consul, rabbitmq, otlp)
        try:
            yield site.start()
        finally:
            site.close()
            rabbitmq.delete_vhost(VHOST)
