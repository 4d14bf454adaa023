"""Real Redis and PostgreSQL servers for acceptance tests, on ports of their own, with data that dies with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar.redis.resp import Reader, encode
from support.patience import PATIENCE
from support.processes import Process, free_port, missing, wait_for


class Redis(Process):
    """``redis-server`` in memory, with ``more`` arguments."""

    def __init__(self, folder: Path, port: int | None = None, *more: str) -> None:
        binary = shutil.which("redis-server") or missing("there is no redis-server: install the package redis-server")
        self.port = port or free_port()
        arguments = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([*arguments, "--dir", str(folder), *more], folder / f"redis-{self.port}.log")

    def ready(self) -> Redis:
        wait_for(lambda: _accepts(self.port), "redis-server accepts connections")
        return self

    def ask(self, *words: str | int) -> Any:
        """What it says to a command."""
        return redis_says(self.port, *words)

    def time(self) -> float:
        """Seconds by its own clock."""
        seconds, micros = self.ask("TIME")
        return int(seconds) + int(micros) / 1e6


class RedisSentinel(Process):
    """``redis-server --sentinel``, one of three, that watches the master at this port under the name ``mymaster``."""

    def __init__(self, folder: Path, master: int) -> None:
        binary = shutil.which("redis-server") or missing("there is no redis-server: install the package redis-server")
        self.port = free_port()
        file = folder / f"sentinel-{self.port}.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor mymaster 127.0.0.1 {master} 2\n"
            "sentinel down-after-milliseconds mymaster 2000\nsentinel failover-timeout mymaster 2000\n"
        )
        super().__init__([binary, str(file), "--sentinel"], folder / f"sentinel-{self.port}.log")

    def ready(self) -> RedisSentinel:
        wait_for(lambda: _accepts(self.port), "the sentinel accepts connections")
        return self

    def knows_all(self, replicas: int = 1) -> bool:
        """Whether it has heard of the two others and of the replicas: only then there is a failover."""
        (state,) = redis_says(self.port, "SENTINEL", "MASTERS")
        found = dict(zip(state[::2], state[1::2], strict=True))
        return (int(found[b"num-other-sentinels"]), int(found[b"num-slaves"])) == (2, replicas)

    def master(self) -> int:
        """The port of the server that it calls the master."""
        return int(redis_says(self.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])


def redis_says(port: int, *words: str | int) -> Any:
    """What the server at that port says to a command."""
    return redis_says_all(port, words)[0]


def redis_says_all(port: int, *commands: Sequence[str | int]) -> list[Any]:
    """What it says to several."""
    reader, found = Reader(), list[Any]()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"".join(encode(*words) for words in commands))
        while data := sock.recv(65536):
            found += reader.feed(data)
            if len(found) >= len(commands):
                return found
    raise ConnectionResetError


class Postgres:
    """A PostgreSQL cluster with one superuser ``tester`` who needs no password. It refuses to run as root, so it then
    runs as the user ``postgres`` or ``nobody``. ``follows``: it is a standby of that one. ``access``: lines of its
    ``pg_hba.conf`` before all others."""

    def __init__(self, follows: Postgres | None = None, access: Sequence[str] = ()) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        on_path = shutil.which("initdb")
        if not found and not on_path:
            missing("there is no PostgreSQL server: install the package postgresql")
        self.bin = found[-1].parent if found else Path(str(on_path)).parent
        self.port = free_port()
        self._follows = follows
        self._access = access
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        data = str(self._folder / "data")
        if self._follows is None:
            arguments = ["initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        else:
            where = ["-h", "127.0.0.1", "-p", str(self._follows.port), "-U", "tester"]
            arguments = ["pg_basebackup", "-D", data, *where, "-R", "-c", "fast", "--no-sync"]
        made = subprocess.run(
            [str(self.bin / arguments[0]), *arguments[1:]],
            user=self._user, cwd=self._folder, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        if self._access:
            file = self._folder / "data" / "pg_hba.conf"
            file.write_text("\n".join([*self._access, file.read_text()]))

    def start(self) -> Postgres:
        """(Again.)"""
        data = str(self._folder / "data")
        arguments = [str(self.bin / "postgres"), "-D", data, "-p", str(self.port), "-h", "127.0.0.1"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*arguments, "-k", str(self._folder), "-F"],
                user=self._user, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_for(lambda: self.psql(self.port, "select 1") == "1", "PostgreSQL answers")
        return self

    def crash(self) -> None:
        """End it at once, nothing written: what was committed is found when it starts again."""
        self._end(signal.SIGQUIT)

    def psql(self, port: int, query: str) -> str:
        """What a query prints, when it is sent to that port; the error text when it fails."""
        where = ["-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-d", "postgres"]
        done = subprocess.run(
            [str(self.bin / "psql"), "-X", *where, "-Atc", query],
            env={**os.environ, "PGCONNECT_TIMEOUT": "5"}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return (done.stdout if done.returncode == 0 else done.stderr).strip()

    def close(self) -> None:
        self._end(signal.SIGINT)  # it ends all sessions, and writes what is to be written
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(60)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _unprivileged() -> int | None:
    """Whom to run as; ``None``: as we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return missing("PostgreSQL does not run as root, and there is no user postgres or nobody")
