"""What a PostgreSQL server is answered that wants a password: SCRAM-SHA-256 (RFC 5802, RFC 7677) and MD5.

A server knows by the start-up packet who asks, so SCRAM's messages name nobody. There is no channel binding, as there
is no TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

#: What a server may ask for: iterations of its hash (its own default is 4096), and bytes of a salt or a nonce.
MOST_ITERATIONS: Final = 100_000
MOST_BYTES: Final = 1024
#: Salted passwords that are remembered: each takes milliseconds to make.
_REMEMBERED: Final = 32

_HEADER: Final = "n,,"
_FIRST: Final = re.compile(r"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,8})(?:,.*)?")


class Salted:
    """A password as servers' salts make it, remembered: a server asks for the same each time."""

    def __init__(self, password: str) -> None:
        self._password = prepared(password)
        self._known: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, salt: bytes, iterations: int) -> bytes:
        found = self._known.get((salt, iterations))
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
            self._known[salt, iterations] = found
        return found


class Scram:
    """One login. Each method raises ValueError for what a server must not say."""

    def __init__(self, salted: Salted, nonce: Callable[[], str] = lambda: secrets.token_urlsafe(18)) -> None:
        self._salted = salted
        self._nonce = nonce()
        self._bare = f"n=,r={self._nonce}"
        self._signature = b""
        #: The server has shown that it knows the password, too.
        self.proven = False

    def first(self) -> bytes:
        """What is said first."""
        return (_HEADER + self._bare).encode("ascii")

    def answer(self, data: bytes) -> bytes:
        """The proof, for the server's nonce and salt."""
        match = _FIRST.fullmatch(data.decode("ascii")) if len(data) <= 2 * MOST_BYTES else None
        if match is None or not match[1].startswith(self._nonce) or len(match[1]) == len(self._nonce):
            raise ValueError("its SCRAM challenge is none")
        iterations = int(match[3])
        if iterations > MOST_ITERATIONS:
            raise ValueError(f"it asks for {iterations} iterations of SCRAM; at most {MOST_ITERATIONS} are made")
        password = self._salted(b64decode(match[2], validate=True), iterations)
        final = f"c={b64encode(_HEADER.encode()).decode()},r={match[1]}"
        said = f"{self._bare},{data.decode('ascii')},{final}".encode("ascii")
        client_key = _hmac(password, b"Client Key")
        mask = _hmac(hashlib.sha256(client_key).digest(), said)
        self._signature = _hmac(_hmac(password, b"Server Key"), said)
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        return f"{final},p={b64encode(proof).decode()}".encode("ascii")

    def check(self, data: bytes) -> None:
        """See whether the server knows the password, too: else it is another one that only says yes."""
        kind, _, value = data[: 2 * MOST_BYTES].partition(b"=")
        if kind != b"v" or not self._signature:
            raise ValueError("its SCRAM signature is none")
        if not hmac.compare_digest(b64decode(value.partition(b",")[0], validate=True), self._signature):
            raise ValueError("it does not know the password itself (its SCRAM signature is another one)")
        self.proven = True


def md5(user: str, password: str, salt: bytes) -> bytes:
    """The answer to an MD5 challenge."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def prepared(password: str) -> bytes:
    """A password by SASLprep (RFC 4013); as PostgreSQL does it, one that SASLprep refuses is taken as it is."""
    if password.isascii():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    found = unicodedata.normalize("NFKC", mapped)
    refused = (
        stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
        stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
        stringprep.in_table_c9, stringprep.in_table_a1,
    )  # fmt: skip
    if not found or any(table(c) for c in found for table in refused) or not _one_way(found):
        return password.encode()
    return found.encode()


def _one_way(text: str) -> bool:
    """Whether it keeps RFC 3454's rule about what is written from right to left."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return True
    whole = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return whole and not any(stringprep.in_table_d2(c) for c in text)


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")
