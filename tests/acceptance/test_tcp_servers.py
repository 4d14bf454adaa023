"""Real Redis and PostgreSQL behind the TCP ports of a real sidecar process."""

from __future__ import annotations

import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.processes import Sidecar, ending, get, wait_for
from support.servers import Postgres, Redis


def _config(**upstreams: Any) -> dict[str, Any]:
    return {
        "service": {"name": "web"},
        "drain": {"timeout": "1s"},
        "upstreams": {name: {"bind": "127.0.0.1:0", "protocol": "tcp", **keys} for name, keys in upstreams.items()},
    }


def _command(*words: str | bytes) -> bytes:
    """A command in Redis' protocol."""
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class RedisClient:
    """Sends commands, reads replies."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 5)
        self._file = self._sock.makefile("rb")

    def __enter__(self) -> RedisClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reply(self) -> Any:
        """The next reply; raises ``OSError`` when the connection has ended."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the connection has ended")
        kind, value = line[:1], line[1:-2]
        if kind == b"$":
            return self._file.read(int(value) + 2)[:-2] if value != b"-1" else None
        if kind == b"*":
            return [self.reply() for _ in range(int(value))]
        assert kind in b"+:", line
        return value

    def ask(self, *words: str | bytes) -> Any:
        self.send(_command(*words))
        return self.reply()

    def server(self) -> int:
        """The port of the server that answers."""
        return int(self.ask("CONFIG", "GET", "port")[1])


def test_redis_pipelines(tmp_path: Path) -> None:
    with ending(Redis(tmp_path).ready()) as processes:
        redis: Any = processes[0]
        sidecar = Sidecar(tmp_path, _config(redis={"endpoints": [f"127.0.0.1:{redis.port}"]}))
        processes.append(sidecar)
        port = sidecar.ready().port("redis")

        def pipeline(client_number: int) -> int:
            values = [b"%d:%d:" % (client_number, n) + b"v" * (n % 700) for n in range(2000)]
            sent = b"".join(_command("SET", f"{client_number}:{n}", value) for n, value in enumerate(values))
            sent += b"".join(_command("GET", f"{client_number}:{n}") for n in range(len(values)))
            with RedisClient(port) as client:
                client.send(sent)
                assert [client.reply() for _ in values] == [b"OK"] * len(values)
                assert [client.reply() for _ in values] == values
            return len(sent)

        with ThreadPoolExecutor(4) as pool:
            total = sum(pool.map(pipeline, range(4)))
        with RedisClient(port) as client:  # one value that is larger than every buffer on the way
            large = bytes(range(256)) * 40_000
            assert client.ask("SET", "large", large) == b"OK"
            assert client.ask("GET", "large") == large
        metrics = wait_for(lambda: get(f"{sidecar.admin}/metrics")[1], "metrics")
        (line,) = [
            line for line in metrics.splitlines()
            if line.startswith("sidecar_bytes_total{") and 'upstream="redis"' in line and 'way="in"' in line
        ]  # fmt: skip
        assert float(line.split()[-1]) > total + len(large)


def test_when_one_of_two_redis_servers_is_killed_clients_reconnect_to_the_other(tmp_path: Path) -> None:
    with ending(Redis(tmp_path).ready(), Redis(tmp_path).ready()) as processes:
        servers: dict[int, Any] = {server.port: server for server in processes}  # type: ignore[attr-defined]
        endpoints = [f"127.0.0.1:{port}" for port in servers]
        sidecar = Sidecar(tmp_path, _config(redis={"endpoints": endpoints}))
        processes.append(sidecar)
        port = sidecar.ready().port("redis")
        clients = [RedisClient(port) for _ in range(20)]
        try:
            by_server = {server: [c for c in clients if c.server() == server] for server in servers}
            assert [len(of_one) for of_one in by_server.values()] == [10, 10]
            killed, left = servers
            servers[killed].kill()
            for client in by_server[killed]:
                try:
                    answered = client.ask("PING")
                except OSError:
                    continue
                raise AssertionError(f"the server was killed, and yet it said {answered}")
            for client in by_server[left]:
                assert client.ask("PING") == b"PONG"
            # Whoever comes again is served at once: no pause, no open breaker.
            times = []
            for _ in range(30):
                started = time.monotonic()
                with RedisClient(port) as client:
                    assert client.server() == left
                times.append(time.monotonic() - started)
            assert statistics.median(times) < 0.1
            # And when it is back, it is used again.
            processes.append(Redis(tmp_path, killed).ready())

            def back() -> bool:
                with RedisClient(port) as client:
                    return client.server() == killed

            wait_for(back, "the server that came back is used again")
        finally:
            for client in clients:
                client.__exit__()


def test_an_open_connection_does_not_keep_a_draining_sidecar_for_ever(tmp_path: Path) -> None:
    with ending(Redis(tmp_path).ready()) as processes:
        redis: Any = processes[0]
        sidecar = Sidecar(tmp_path, _config(redis={"endpoints": [f"127.0.0.1:{redis.port}"]}))
        processes.append(sidecar)
        with RedisClient(sidecar.ready().port("redis")) as client:
            assert client.ask("PING") == b"PONG"
            assert sidecar.terminate(10) == 0


def test_postgresql(tmp_path: Path) -> None:
    with Postgres() as postgres, ending() as processes:
        nobody = Redis(tmp_path).ready()
        nobody.kill()  # a port on which nobody listens
        endpoints = [f"127.0.0.1:{nobody.port}", f"127.0.0.1:{postgres.port}"]
        sidecar = Sidecar(tmp_path, _config(postgres={"endpoints": endpoints}))
        processes.append(sidecar)
        port = sidecar.ready().port("postgres")
        for n in range(4):
            assert postgres.psql(port, f"select {n} + 1") == str(n + 1)
        postgres.psql(port, "create table t as select n, repeat('x', 1000) as text from generate_series(1, 20000) n")
        rows = postgres.psql(port, "select n, text from t order by n").splitlines()
        assert len(rows) == 20_000
        assert all(row == f"{n}|{'x' * 1000}" for n, row in enumerate(rows, 1))
        assert "does not exist" in postgres.psql(port, "select * from nowhere")

        def slow(n: int) -> str:
            return postgres.psql(port, f"select pg_sleep(0.2), {n}")

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(slow, range(8))) == [f"|{n}" for n in range(8)]
