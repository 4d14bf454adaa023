"""A client of PostgreSQL for one question: whether this server accepts writes.

Protocol 3.0 (https://www.postgresql.org/docs/current/protocol-flow.html): the start-up, a login, one simple query. It
begins with ``SHOW transaction_read_only``, as libpq does for ``target_session_attrs=read-write``: that is ``on`` at a
standby, and where the server, the database or the account is set to read only. The rest asks on which timeline a
primary is: each promotion begins a new one, and so a primary that was left behind is told from its successor.

Bytes in, bytes out. A server may say what it wants: that is bounded, and what is no PostgreSQL ends it.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from sidecar.core.health import Unsure
from sidecar.core.text import printable
from sidecar.endpoints.postgres_login import Salted, Scram, md5

#: Bytes of one message, and how many there may be; a server says some twenty.
MAX_MESSAGE: Final = 16 * 1024
MAX_MESSAGES: Final = 200
#: Characters of a server's error that are told.
_TOLD: Final = 200

_QUERY: Final = (
    b"SHOW transaction_read_only; SELECT CASE WHEN pg_is_in_recovery() THEN '' "
    b"ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)
_TIMELINE: Final = re.compile(rb"[0-9A-F]{8}")
_VERSION: Final = 3 << 16
_MECHANISM: Final = b"SCRAM-SHA-256"
_OK, _CLEAR, _MD5, _SASL, _CONTINUE, _FINAL = 0, 3, 5, 10, 11, 12
#: Ways to log in that are not spoken here, by their number.
_OTHERS: Final = {2: "Kerberos", 7: "GSSAPI", 8: "GSSAPI", 9: "SSPI"}
#: Messages that say nothing here: notices, the key to cancel, a newer protocol that it lacks, a query's shape and end.
_PASSED_OVER: Final = b"NKvTC"
#: SQLSTATE classes and codes that say nothing about the server's role: a login, its account, its database, its fill.
_LOGIN: Final = ("28",)
_FULL: Final = ("53300", "53400")
_NO_DATABASE: Final = "3D000"
_NO_TLS: Final = ("no encryption", "SSL off")


class Question:
    """Send :attr:`begin`, feed what comes, send what that returns, until it is :attr:`over`. Then :attr:`writable` has
    the answer, and :attr:`timeline` its timeline (0: it did not say)."""

    def __init__(self, user: str, database: str, password: str, salted: Salted) -> None:
        self.over = False
        self.writable: bool | None = None
        self.timeline = 0
        #: The server says itself that it follows another one; servers before PostgreSQL 14 do not say.
        self.standby = False
        self._user, self._password, self._salted = user, password, salted
        self._data = bytearray()
        self._messages = 0
        self._scram: Scram | None = None
        #: It has let us in; the query is sent.
        self._in = self._asked = False
        #: It has asked for the password.
        self._proving = False
        words = {"user": user, "database": database, "application_name": "sidecar-health"}
        body = struct.pack("!i", _VERSION) + b"".join(f"{k}\0{v}\0".encode() for k, v in words.items()) + b"\0"
        self.begin: Final = struct.pack("!i", len(body) + 4) + body

    @property
    def hashes(self) -> bool:
        """Whether what comes next may take milliseconds: a password is salted."""
        return self._scram is not None and not self._in

    def feed(self, data: bytes) -> bytes:
        """Take what the server says, and return the answer. Raises ValueError for what a server of this protocol does
        not say, and for its errors; :class:`Unsure` for those that leave open what it is."""
        self._data += data
        out = b""
        while not self.over and len(self._data) >= 5:
            kind, size = self._data[0], int.from_bytes(self._data[1:5], "big")
            if kind not in b"RSZEDI" + _PASSED_OVER or not 4 <= size <= MAX_MESSAGE:
                raise ValueError("it does not speak PostgreSQL's protocol")
            if len(self._data) <= size:
                break
            self._messages += 1
            if self._messages > MAX_MESSAGES:
                raise ValueError("it says too much")
            body = bytes(self._data[5 : size + 1])
            del self._data[: size + 1]
            out += self._message(kind, body)
        return out

    def _message(self, kind: int, body: bytes) -> bytes:
        if kind == ord("R"):
            return self._login(body)
        if kind == ord("E"):
            if self.writable is None:
                raise _error(body)
            return self._end()  # it knows no timelines, and is something like PostgreSQL
        if kind == ord("S") and body == b"in_hot_standby\0on\0":
            self.standby = True
        elif kind == ord("Z"):
            if self.writable is not None:
                return self._end()
            if not self._in or self._asked:
                raise ValueError("it has not answered")
            self._asked = True
            return _message(b"Q", _QUERY + b"\0")
        elif kind == ord("D"):
            self._row(body)
        elif kind == ord("I"):
            raise ValueError("it has not answered")
        return b""

    def _login(self, body: bytes) -> bytes:
        if len(body) < 4 or self._in:
            raise ValueError("it does not speak PostgreSQL's protocol")
        how, rest = int.from_bytes(body[:4], "big"), body[4:]
        if how == _OK:
            if self._scram is not None and not self._scram.proven:
                raise ValueError("it lets in without a proof that it knows the password")
            self._in = True
            return b""
        if how in (_CONTINUE, _FINAL):
            if self._scram is None:
                raise ValueError("it does not speak PostgreSQL's protocol")
            if how == _CONTINUE:
                return _message(b"p", self._scram.answer(rest))
            self._scram.check(rest)
            return b""
        if how not in (_MD5, _SASL):
            raise Unsure(_not_spoken(how))
        if not self._password:
            raise Unsure("it wants a password, and none is configured")
        if self._proving:
            raise ValueError("it asks for the password twice")
        self._proving = True
        if how == _MD5:
            if len(rest) != 4:
                raise ValueError("it does not speak PostgreSQL's protocol")
            return _message(b"p", md5(self._user, self._password, rest) + b"\0")
        if _MECHANISM not in rest.split(b"\0"):
            raise Unsure(
                f"it logs in by {printable(rest.decode('ascii', 'replace'), 60)}, of which none is spoken here"
            )
        self._scram = Scram(self._salted)
        first = self._scram.first()
        return _message(b"p", _MECHANISM + b"\0" + struct.pack("!i", len(first)) + first)

    def _row(self, body: bytes) -> None:
        """A column of the first answer, ``on`` or ``off``; then of the second, a number."""
        if not self._asked or body[:2] != b"\0\1" or int.from_bytes(body[2:6], "big") != len(body) - 6:
            raise ValueError("it does not answer what was asked")
        value = body[6:]
        if self.writable is None:
            if value not in (b"on", b"off"):
                raise ValueError("it does not answer what was asked")
            self.writable = value == b"off"
        elif _TIMELINE.fullmatch(value):
            self.timeline = int(value, 16)

    def _end(self) -> bytes:
        self.over = True
        return _message(b"X", b"")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _not_spoken(how: int) -> str:
    if how == _CLEAR:
        return "it wants the password in clear text, which is not sent without TLS: scram-sha-256 in its pg_hba.conf"
    return f"it logs in by {_OTHERS.get(how, f'way {how}')}, which is not spoken here"


def _error(body: bytes) -> ValueError | Unsure:
    """What an error of the server means: its fields are a letter and a text each."""
    fields = {it[:1]: it[1:].decode("utf-8", "replace") for it in body.split(b"\0") if it}
    code, text = fields.get(b"C", ""), printable(fields.get(b"M", ""), _TOLD)
    said = f"it says: {text} ({printable(code, 5)})"
    if code.startswith(_LOGIN) and any(words in text for words in _NO_TLS):
        return Unsure(f"{said}; checks do not speak TLS: a line host (not hostssl) in its pg_hba.conf for this account")
    if code.startswith(_LOGIN) or code in _FULL or code == _NO_DATABASE:
        return Unsure(said)
    return ValueError(said)
