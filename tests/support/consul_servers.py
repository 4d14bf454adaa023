"""Three Consul servers that elect a leader among themselves, each a process that can be lost."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from support.consul import ConsulAgent
from support.processes import free_port, wait_for


class ConsulServer(ConsulAgent):
    """One of them. It keeps its data when it is killed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.node = f"server-{number}"
        self.rpc_port, self.serf_port = free_port(), free_port()
        self.others: list[ConsulServer] = []

    def start(self) -> None:
        """(Again.) Does not wait: there is no leader before two have started."""
        self._spawn("-data-dir", str(self._folder / "data"))

    def _configuration(self) -> dict[str, Any]:
        config = super()._configuration()
        config["ports"] |= {"server": self.rpc_port, "serf_lan": self.serf_port}
        return config | {
            "server": True,
            "bootstrap_expect": 3,
            "retry_join": [f"127.0.0.1:{it.serf_port}" for it in self.others],
            "retry_interval": "200ms",
            "performance": {"raft_multiplier": 1},
            "log_level": "WARN",
        }

    def ready(self) -> bool:
        """Whether it is a node of a catalogue with a leader."""
        return self._ready()


class ConsulServers:
    """All three, as a context."""

    def __init__(self) -> None:
        self.all = [ConsulServer(number) for number in range(3)]
        for it in self.all:
            it.others = [other for other in self.all if other is not it]

    def __enter__(self) -> Self:
        try:
            for it in self.all:
                it.start()
            wait_for(lambda: all(it.ready() for it in self.all), lambda: self.all[0].output())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for it in self.all:
            it.close()

    def leader(self, *, asked: ConsulServer | None = None) -> ConsulServer | None:
        """Which one it is, as the first, or ``asked``, knows; None: there is none."""
        try:
            address = (asked or self.all[0]).request("GET", "/v1/status/leader")
        except OSError:
            return None
        return next((it for it in self.all if address == f"127.0.0.1:{it.rpc_port}"), None)
