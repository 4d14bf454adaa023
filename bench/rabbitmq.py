"""A real RabbitMQ for the benchmark, with ports, folders and a node name of its own: nothing of a broker that may run
on this machine already is read, used or touched."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.processes import BenchError, Child
from sidecar.demo.ports import free_ports

#: Where the start script itself is; Debian's in PATH changes to the user and the folders of the system's broker.
_FOLDERS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"))
_START_SECONDS = 150.0

# No collecting of statistics, and no limit of memory or disk of the machine that would make it stop taking publishes.
_CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = false
log.file.level = warning
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
collect_statistics = none
"""


class RabbitMQ:
    """A broker on :attr:`port`, account ``guest``/``guest``, on one core if one is named."""

    def __init__(self, folder: Path, core: int | None) -> None:
        program = find_server()
        if program is None:
            raise BenchError("there is no RabbitMQ here; on Debian: apt-get install rabbitmq-server")
        for name in ("home", "data", "logs"):
            (folder / name).mkdir(parents=True)
        self.port, mapper_port, distribution = free_ports(3)
        config = folder / "rabbitmq.conf"
        config.write_text(_CONFIG.format(port=self.port))
        plugins = folder / "enabled_plugins"
        plugins.write_text("[].")
        (folder / "environment").touch()
        self._program = program
        self._log = folder / "rabbitmq.log"
        self._core = core
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(folder / "home"),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_NODENAME": f"bench-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "detached": "1",  # the start script then becomes Erlang itself: one process, whose id we know
        }
        self._stack = ExitStack()
        try:
            # Erlang would start this one by itself, and leave it behind.
            mapper = self._stack.enter_context(
                Child("epmd", ["epmd", "-port", str(mapper_port)], core, folder / "epmd.log", self._environment)
            )
            _wait_listening(mapper, mapper_port)
            self.start()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._stack.close()

    def start(self) -> None:
        """Start it (again); what was durable is still there. Does not wait: see :meth:`wait_ready`."""
        self.process = Child("rabbitmq", [self._program], self._core, self._log, self._environment)

    def stop(self) -> None:
        """An orderly end, as at a restart for an upgrade: clients are told with ``connection.close`` 320."""
        self.process.end()

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Until it listens; :class:`BenchError` when it has ended or takes longer than that."""
        _wait_listening(self.process, self.port, seconds)


def _wait_listening(process: Child, port: int, seconds: float = _START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.check()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"{process.name} did not listen within {seconds:g} s")


def find_server() -> Path | None:
    """The start script, or None when RabbitMQ is not installed."""
    return next((program for folder in _FOLDERS if (program := folder / "rabbitmq-server").exists()), None)
