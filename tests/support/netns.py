"""Network namespaces, and what a test does in them from its own process.

A thread of its own enters a namespace, as a user of its own, makes a socket and ends: the socket stays there, and that
user's. So neither clients nor servers take a process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from support.patience import PATIENCE
from support.processes import missing

_CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NUMBERS: Final = count()


def require_netns() -> None:
    """Skip (in CI: fail) where there can be no namespaces with rules."""
    if os.geteuid():
        missing("network namespaces take root")
    for program, package in (("nft", "nftables"), ("ip", "iproute2")):
        if find(program) is None:
            missing(f"there is no {program} here: apt-get install {package}")
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"no network namespace can be made here: {done.stderr.strip()}")


def find(program: str) -> str | None:
    """Where an administrator's command is."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Namespace:
    """One network namespace, with loopback."""

    def __init__(self) -> None:
        self.name = f"sidecar-test-{os.getpid()}-{next(_NUMBERS)}"
        _do("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *arguments: str) -> list[str]:
        """That command, run in here."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, text: str = "", code: int = 0, env: dict[str, str] | None = None) -> str:
        """Run that in here, with that exit code; what it prints."""
        return _do(*self.command(*arguments), text=text, code=code, env=env)

    def inside(self, work: Callable[[], Any], uid: int = 0) -> Any:
        """Do that in here, with sockets that belong to that user."""
        results: list[Any] = []

        def enter() -> None:
            fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if _LIBC.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                _LIBC.setfsuid(uid)  # of this thread alone
                results.append(work())
            except Exception as error:
                results.append(error)
            finally:
                os.close(fd)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(PATIENCE)
        assert results, "it has not ended"
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def dial(self, host: str, port: int, uid: int = 0) -> socket.socket:
        """A connection from in here."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found: socket.socket = self.inside(lambda: socket.socket(family), uid)
        found.settimeout(PATIENCE)
        try:
            found.connect((host, port))
        except BaseException:
            found.close()
            raise
        return found

    def close(self) -> None:
        with suppress(AssertionError):
            _do("ip", "netns", "del", self.name)


@contextmanager
def linked() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with a cable between them: 10.9.0.1 and fd00:9::1 in the first, .2 and ::2 in the second."""
    made: list[Namespace] = []
    try:
        made.extend(Namespace() for _ in range(2))
        one, other = made
        one.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other.name)
        for number, it in enumerate(made, 1):
            it.run("ip", "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
            it.run("ip", "address", "add", f"fd00:9::{number}/64", "dev", "eth0", "nodad")
            it.run("ip", "link", "set", "eth0", "up")
        yield one, other
    finally:
        for it in made:
            it.close()


class Server:
    """Answers each connection with ``answer`` of what has come first, and remembers that. ``where``: addresses and
    ports; ``uid``: whose sockets they are."""

    def __init__(
        self, space: Namespace, answer: Callable[[bytes], bytes], *where: tuple[str, int], uid: int = 0
    ) -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._sockets = [space.inside(partial(_listen, *at), uid) for at in where]
        for sock in self._sockets:
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = sock.accept()
                with peer:
                    peer.settimeout(PATIENCE)
                    with suppress(OSError):
                        data = peer.recv(65536)
                        if data:
                            self.heard.append(data)
                            peer.sendall(self._answer(data))

    def close(self) -> None:
        for sock in self._sockets:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))
    sock.listen()
    return sock


def said(sock: socket.socket, text: bytes) -> bytes:
    """What comes of saying that, up to the end."""
    with sock:
        sock.sendall(text)
        found = b""
        while data := sock.recv(65536):
            found += data
        return found


def _do(*command: str, text: str = "", code: int = 0, env: dict[str, str] | None = None) -> str:
    program = find(command[0])
    assert program is not None, command[0]
    done = subprocess.run(
        [program, *command[1:]], input=text, capture_output=True, text=True, timeout=PATIENCE,
        cwd=Path("/"), env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
