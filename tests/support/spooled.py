"""A sidecar whose AMQP port has a spool, in front of a broker, perhaps with a wire between them that can be cut."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from support.amqp_clients.raw import Listener, RawClient
from support.patience import PATIENCE
from support.processes import Sidecar, free_port, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar

#: The default of ``amqp.spool.window``.
WINDOW = 256

_PUBLISHERS = Path(__file__).with_name("amqp_clients") / "publishers.py"


class Spooled:
    """The sidecar, in front of the brokers at these ports. ``amqp`` is more of its section, ``spool`` of the spool's;
    it always has the same port and folder, so that it can be killed and started again."""

    def __init__(self, folder: Path, to: int | Sequence[int], spool: dict[str, Any] | None = None, **amqp: Any) -> None:
        self.folder = folder
        self.path = folder / "spool"
        self.port = free_port()
        self.config = behind_sidecar(
            *([to] if isinstance(to, int) else to),
            **{"credentials": GUEST, **amqp},
            spool={"path": str(self.path)} | (spool or {}),
        )
        self.config["upstreams"]["rabbitmq"]["bind"] = f"127.0.0.1:{self.port}"
        self._starts = 0
        self.sidecar: Sidecar
        self.start()

    def start(self) -> Self:
        """(Again.)"""
        self._starts += 1
        self.sidecar = Sidecar(self.folder, self.config, f"spooled{self._starts}")
        try:
            self.sidecar.ready()
        except BaseException:
            self.sidecar.close()
            raise
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sidecar.close()

    # -- what can be seen of it

    def view(self) -> dict[str, Any]:
        """``GET /amqp`` of its only upstream."""
        found: dict[str, Any] = get(self.sidecar.admin + "/amqp")[1]["upstreams"][0]
        return found

    def spool(self) -> dict[str, Any]:
        found: dict[str, Any] = self.view()["spool"]
        return found

    def empty(self, seconds: float = PATIENCE) -> None:
        """Wait until the broker has everything."""
        wait_for(lambda: self.spool()["messages"] == 0, "the spool is empty", seconds)

    def away(self) -> None:
        """Wait until it has noticed, for all its clients, that there is no broker."""
        wait_for(lambda: self.view()["connections"] == self.view()["detached"], "all are without a broker")

    def attached(self, seconds: float = PATIENCE) -> None:
        """Wait until all its clients have their broker again."""
        wait_for(lambda: self.view()["detached"] == 0, "all have a broker", seconds)

    def errors(self) -> list[str]:
        """What it has logged as an error."""
        return [line for line in self.sidecar.output().splitlines() if '"level":"error"' in line or "Traceback" in line]

    def letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get(f"{self.sidecar.admin}/amqp/rabbitmq/dead-letters")[1]["dead_letters"]
        return found

    def post(self, path: str) -> tuple[int, Any]:
        """To ``/amqp/rabbitmq/…`` of the admin API."""
        request = urllib.request.Request(f"{self.sidecar.admin}/amqp/rabbitmq/{path}", b"{}", method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    # -- its clients

    def client(self, *, confirms: bool = True) -> RawClient:
        """One with channel 1 open."""
        client = RawClient(self.port).open_channel()
        return client.confirms() if confirms else client

    def listener(self, *, confirms: bool = True) -> Listener:
        """The same, that is read all the time; to be used as a context."""
        return Listener(self.client(confirms=confirms))

    def publisher(self, kind: str, queue: str, rate: float, count: int, type: str = "classic") -> Publisher:
        """``publishers.py`` against its port."""
        return Publisher([kind, str(self.port), queue, str(rate), str(count), type])


class Publisher:
    """A process that publishes, and was started."""

    def __init__(self, arguments: list[str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(_PUBLISHERS), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def result(self, seconds: float) -> dict[str, Any]:
        """Let it end by itself in that time, or now; what it says of itself."""
        try:
            self.popen.wait(seconds)
            output, errors = self.popen.communicate()
        except subprocess.TimeoutExpired:
            output, errors = self.popen.communicate("end\n", timeout=75)
        assert self.popen.returncode == 0, errors[-2000:]
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()


def bodies(broker: RabbitMQ, queue: str, count: int = 0, seconds: float = PATIENCE) -> list[bytes]:
    """What is in a queue, oldest first; it is empty afterwards. Waits until there are ``count`` different ones, as
    long as no more than ``seconds`` pass without a new one: all of them may take long where the disk is slow."""
    found: list[bytes] = []
    different: set[bytes] = set()
    deadline = time.monotonic() + seconds
    empty = False
    with broker.channel() as channel:
        channel.basic_qos(prefetch_count=1000)
        # Acknowledged: what comes between the last look and the end of the consumer stays in the queue.
        for method, _, body in channel.consume(queue, inactivity_timeout=0.15):
            if method is not None:
                channel.basic_ack(method.delivery_tag)
                found.append(body)
                if body not in different:
                    different.add(body)
                    deadline = time.monotonic() + seconds
                empty = False
            elif empty and (len(different) >= count or time.monotonic() > deadline):
                break
            else:
                # What the queue has given away comes before this answer, and is the next to be seen here.
                empty = channel.queue_declare(queue, passive=True).method.message_count == 0
        channel.cancel()
    return found


def numbers(messages: list[bytes]) -> list[int]:
    """Those of a :class:`Publisher`."""
    return [json.loads(body)[0][0] if body.startswith(b"[") else int(body) for body in messages]


def first_times(found: list[int]) -> list[int]:
    """Without what is there again."""
    return list(dict.fromkeys(found))
