"""Who may come in while there is no broker to ask: whom it has let in before, and the sidecar's own account.

Of a login only a salted scrypt hash (RFC 7914) is stored, and only of the mechanisms that prove something by a secret
of the client's: PLAIN (RFC 4616) and RabbitMQ's AMQPLAIN. Hashing takes some 50 ms and 16 MiB, so it is done off the
loop, one at a time, and once a login: for as long as the process lives a keyed hash with a key of its own finds it at
once.

A login is forgotten a week after the broker has last accepted it. Until then, whoever knows the old password of a user
may publish into the spool while the broker is away, and no longer than that: nobody gets anything out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.tables import decode_table
from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.storage.json_file import Kept, Notebook

logger = logging.getLogger("sidecar.amqp")

#: How long a login is good after it was last accepted, seconds.
KEEP_SECONDS: Final = 7 * 86_400.0
#: How often a login that is in use is written down again, seconds.
_SEEN_STEP: Final = 3600.0
#: Logins in all, of one user (while a password is changed there are two), and vhosts of one.
MAX_LOGINS: Final = 1000
MAX_OF_USER: Final = 4
MAX_VHOSTS: Final = 100
#: Longer names and secrets than any broker takes (a token may have a few thousand).
MAX_RESPONSE: Final = 32_768
#: Verifications that wait for their turn; a client beyond them is told to come again.
MAX_PENDING: Final = 64
MAX_FILE: Final = 4 * 1024 * 1024

_COST: Final = 1 << 14
_BLOCK: Final = 8
_MEMORY: Final = 64 * 1024 * 1024


class Credential:
    """A login that is good. Of the secret it has the hash alone. ``any_vhost``: it is the sidecar's own."""

    __slots__ = ("any_vhost", "digest", "salt", "user", "vhosts")

    def __init__(self, user: str, salt: bytes, digest: bytes, any_vhost: bool = False) -> None:
        self.user = user
        self.salt = salt
        self.digest = digest
        self.any_vhost = any_vhost
        #: The vhosts that it was let into, and when last (Unix time).
        self.vhosts: dict[str, float] = {}

    @property
    def seen(self) -> float:
        """When it was last accepted."""
        return max(self.vhosts.values(), default=0.0)

    def opens(self, vhost: str) -> bool:
        """Whether it may open this vhost."""
        return self.any_vhost or vhost in self.vhosts


class CredentialCache(Kept):
    """All of one upstream. ``credentials`` is the sidecar's own account."""

    __slots__ = ("_by_secret", "_by_user", "_count", "_key", "_lock", "_pending", "_tasks", "_wall", "credentials")

    def __init__(
        self,
        path: Path | None = None,
        credentials: AmqpCredentials | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``path`` is the file that they are stored in."""
        notebook = Notebook(path, "the list of accepted logins", MAX_FILE, wall) if path is not None else None
        Kept.__init__(self, notebook)
        self._wall = wall
        self.credentials = credentials
        #: Of this process: what finds a login that was hashed before.
        self._key = secrets.token_bytes(32)
        self._by_secret: dict[bytes, Credential] = {}
        #: User → its logins; the user seen the longest ago first.
        self._by_user: OrderedDict[str, list[Credential]] = OrderedDict()
        self._count = 0
        self._lock = asyncio.Lock()
        self._pending = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many logins are remembered."""
        return self._count

    def accepted(self, mechanism: str, response: bytes, vhost: str) -> None:
        """The broker has let somebody in (open-ok), or somebody who was let in is still there: to be said again when a
        connection ends, as one may last longer than a week. Quick; the rest is done in the background."""
        login = _login(mechanism, response)
        if login is None or self._is_own(login) or len(vhost) > 255:
            return
        credential = self._by_secret.get(self._quick(login))
        if credential is not None:
            self._seen(credential, vhost)
        elif self._pending < MAX_PENDING:
            self._pending += 1
            task = asyncio.get_running_loop().create_task(self._remember(login, vhost))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def refused(self, mechanism: str, response: bytes) -> None:
        """The broker does not know this login (any more)."""
        login = _login(mechanism, response)
        credential = self._by_secret.get(self._quick(login)) if login is not None else None
        if credential is not None and not credential.any_vhost:
            self._forget(credential)

    async def verify(self, mechanism: str, response: bytes) -> Credential | None:
        """The credential of a login that was accepted before; ``None``: it was not, or not lately."""
        login = _login(mechanism, response)
        if login is None:
            return None
        if self._is_own(login):
            return Credential(login[0], b"", b"", any_vhost=True)
        self._expire(login[0])
        credential = self._by_secret.get(self._quick(login))
        if credential is not None:
            return credential
        if self._pending >= MAX_PENDING:
            return None
        self._pending += 1
        try:
            return await self._find(login)
        finally:
            self._pending -= 1

    async def close(self) -> None:
        """Let what is under way in the background come to its end."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- logins --------------------------------------------------------------------------------------------------------

    async def _find(self, login: tuple[str, bytes]) -> Credential | None:
        async with self._lock:
            if not self._by_user.get(login[0]):
                await asyncio.to_thread(_hash, login[1], b"\x00" * 16)  # as long as for a user that there is
            return await self._look_up(login)

    async def _remember(self, login: tuple[str, bytes], vhost: str) -> None:
        try:
            async with self._lock:
                credential = await self._look_up(login)
                if credential is None:
                    salt = secrets.token_bytes(16)
                    credential = Credential(login[0], salt, await asyncio.to_thread(_hash, login[1], salt))
                    self._add(credential)
                    self._by_secret[self._quick(login)] = credential
            self._seen(credential, vhost)
        finally:
            self._pending -= 1

    async def _look_up(self, login: tuple[str, bytes]) -> Credential | None:
        """With the lock held, so that nobody hashes what another has just hashed."""
        found = self._by_secret.get(self._quick(login))
        if found is not None:
            return found
        for credential in list(self._by_user.get(login[0], ())):
            digest = await asyncio.to_thread(_hash, login[1], credential.salt)
            if hmac.compare_digest(digest, credential.digest):
                found = credential
        if found is None or found not in self._by_user.get(login[0], ()):
            return None
        self._by_secret[self._quick(login)] = found
        return found

    def _add(self, credential: Credential) -> None:
        theirs = self._by_user.setdefault(credential.user, [])
        theirs.append(credential)
        self._by_user.move_to_end(credential.user)
        self._count += 1
        while len(theirs) > MAX_OF_USER:
            self._forget(min(theirs[:-1], key=_seen_at))
        while self._count > MAX_LOGINS:
            self._forget(self._by_user[next(iter(self._by_user))][0])
        self.dirty = True

    def _seen(self, credential: Credential, vhost: str) -> None:
        now = self._wall()
        before = credential.vhosts.get(vhost)
        if before is not None and 0 <= now - before < _SEEN_STEP:
            return
        credential.vhosts[vhost] = now
        if len(credential.vhosts) > MAX_VHOSTS:
            del credential.vhosts[min(credential.vhosts, key=credential.vhosts.__getitem__)]
        if credential.user in self._by_user:
            self._by_user.move_to_end(credential.user)
        self.dirty = True

    def _expire(self, user: str) -> None:
        """Forget what of a user's logins was not accepted lately."""
        limit = self._wall() - KEEP_SECONDS
        for credential in list(self._by_user.get(user, ())):
            for vhost in [vhost for vhost, seen in credential.vhosts.items() if seen < limit]:
                del credential.vhosts[vhost]
                self.dirty = True
            if not credential.vhosts:
                self._forget(credential)

    def _forget(self, credential: Credential) -> None:
        theirs = self._by_user.get(credential.user, [])
        if credential in theirs:
            theirs.remove(credential)
            self._count -= 1
            if not theirs:
                del self._by_user[credential.user]
            for key in [key for key, other in self._by_secret.items() if other is credential]:
                del self._by_secret[key]
            self.dirty = True

    def _quick(self, login: tuple[str, bytes]) -> bytes:
        return hashlib.blake2b(login[0].encode("utf-8", "surrogateescape") + b"\x00" + login[1], key=self._key).digest()

    def _is_own(self, login: tuple[str, bytes]) -> bool:
        own = self.credentials
        if own is None or not own.username or not own.password.reveal():
            return False
        same = hmac.compare_digest(login[0].encode("utf-8", "surrogateescape"), own.username.encode())
        return hmac.compare_digest(login[1], own.password.reveal().encode()) and same

    # -- the file ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take up what the file says. Blocks."""
        content = self.notebook.read() if self.notebook is not None else None
        if content is None or self.notebook is None:
            return
        try:
            self._take_up(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._by_user.clear()
            self._count = 0
            self.notebook.set_aside(f"{type(error).__name__}: {error}")
        self.dirty = False

    def _take_up(self, content: dict[str, object]) -> None:
        logins = content["logins"]
        if not isinstance(logins, list):
            raise TypeError("logins are not a list")
        now = self._wall()
        for user, salt, digest, vhosts in logins:
            if not isinstance(user, str) or not isinstance(vhosts, dict):
                raise TypeError("a login is not one")
            credential = Credential(user, b64decode(salt, validate=True), b64decode(digest, validate=True))
            if len(credential.salt) != 16 or len(credential.digest) != 32:
                raise ValueError("a hash is not one")
            # A clock that was ahead must not make it good for longer.
            credential.vhosts = {vhost: min(float(seen), now) for vhost, seen in vhosts.items()}
            self._add(credential)
            self._expire(user)

    def content(self) -> dict[str, object]:
        return {
            "logins": [
                [each.user, b64encode(each.salt).decode(), b64encode(each.digest).decode(), dict(each.vhosts)]
                for theirs in self._by_user.values()
                for each in theirs
            ]
        }


def _login(mechanism: str, response: bytes) -> tuple[str, bytes] | None:
    """User and secret; ``None`` when there is no secret, or too much of it."""
    if len(response) > MAX_RESPONSE:
        return None
    user: object = None
    secret: object = None
    if mechanism == "PLAIN":
        parts = response.split(b"\x00")
        if len(parts) == 3:
            user, secret = parts[1].decode("utf-8", "surrogateescape"), parts[2]
    elif mechanism == "AMQPLAIN":
        table = len(response).to_bytes(4, "big") + response
        try:
            entries = decode_table(table, 0, len(table))
        except AmqpError:
            return None
        user, secret = entries.get("LOGIN"), entries.get("PASSWORD")
        if isinstance(secret, str):
            secret = secret.encode("utf-8", "surrogateescape")
    if not isinstance(user, str) or not isinstance(secret, bytes) or not user or not secret:
        return None
    return user, secret


def _seen_at(credential: Credential) -> float:
    return credential.seen


def _hash(secret: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(secret, salt=salt, n=_COST, r=_BLOCK, p=1, maxmem=_MEMORY, dklen=32)
