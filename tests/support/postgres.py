"""A PostgreSQL server without a database: enough of its protocol to be asked whether it accepts writes, and to lie."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Self

from sidecar.endpoints.postgres import Question
from sidecar.endpoints.postgres_login import Salted


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def login(how: int, rest: bytes = b"") -> bytes:
    return message("R", struct.pack("!i", how) + rest)


def error(code: str, text: str) -> bytes:
    return message("E", f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode())


def row(value: str) -> bytes:
    return message("D", struct.pack("!hi", 1, len(value)) + value.encode())


def answer(read_only: str, timeline: str = "") -> bytes:
    """Both answers, as they come."""
    done = message("C", b"SHOW\0")
    return message("T", b"\0\1x") + row(read_only) + done + message("T", b"\0\1x") + row(timeline) + done + READY


READY = message("Z", b"I")
#: Let in without a password.
WELCOME = login(0) + message("S", b"server_version\x0015.1\0") + message("K", b"12345678") + READY


def question(password: str = "", user: str = "tester") -> Question:
    return Question(user, "postgres", password, Salted(password))


class FakePostgres:
    """One session, from the client's bytes to the server's. ``method``: trust, md5, scram-sha-256. ``honest``: it knows
    the password itself."""

    def __init__(
        self, method: str, password: str, says: Callable[[], bytes], user: str = "tester", *, honest: bool = True
    ) -> None:
        self.method, self.password, self.says, self.user, self.honest = method, password, says, user, honest
        self.queries: list[bytes] = []
        self.parameters: dict[str, str] = {}
        self.ended = False
        self._data = b""
        self._salt = os.urandom(16)
        self._first = self._challenge = ""

    def feed(self, data: bytes) -> bytes:
        self._data += data
        out = b""
        if not self.parameters:
            (size, version) = struct.unpack("!ii", self._data[:8])
            assert version == 196608
            words = self._data[8 : size - 2].decode().split("\0")
            self.parameters = dict(zip(words[::2], words[1::2], strict=True))
            self._data = self._data[size:]
            out += self._asks()
        while len(self._data) >= 5:
            size = int.from_bytes(self._data[1:5], "big")
            kind, body, self._data = self._data[:1], self._data[5 : size + 1], self._data[size + 1 :]
            if kind == b"Q":
                self.queries.append(body)
                out += self.says()
            elif kind == b"X":
                self.ended = True
            else:
                out += self._takes(body)
        return out

    def _asks(self) -> bytes:
        if self.method == "trust":
            return WELCOME
        if self.method == "md5":
            return login(5, self._salt[:4])
        return login(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")

    def _takes(self, body: bytes) -> bytes:
        refused = error("28P01", f'password authentication failed for user "{self.user}"')
        if self.method == "md5":
            inner = hashlib.md5((self.password + self.user).encode()).hexdigest()
            wanted = "md5" + hashlib.md5(inner.encode() + self._salt[:4]).hexdigest()
            return WELCOME if body == wanted.encode() + b"\0" else refused
        if not self._first:
            mechanism, _, rest = body.partition(b"\0")
            assert mechanism == b"SCRAM-SHA-256"
            self._first = rest[4:].decode().removeprefix("n,,")
            nonce = self._first.partition("r=")[2] + "theserver"
            self._challenge = f"r={nonce},s={b64encode(self._salt).decode()},i=4096"
            return login(11, self._challenge.encode())
        without, _, proof = body.decode().rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), self._salt, 4096)
        said = f"{self._first},{self._challenge},{without}".encode()
        stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        signature = hmac.digest(stored, said, "sha256")
        key = bytes(a ^ b for a, b in zip(b64decode(proof), signature, strict=True))
        if self.honest and hashlib.sha256(key).digest() != stored:
            return refused
        proof_of_server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        return login(12, b"v=" + b64encode(proof_of_server)) + WELCOME


class PostgresPort:
    """Such a server at a port; ``says`` is what it answers, and can be changed."""

    def __init__(self, says: bytes, method: str = "trust", password: str = "") -> None:
        self.says, self.method, self.password = says, method, password
        self.sessions: list[FakePostgres] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = FakePostgres(self.method, self.password, lambda: self.says)
        self.sessions.append(session)
        try:
            while data := await reader.read(4096):
                writer.write(session.feed(data))
        finally:
            writer.close()
