"""How commands ask a running sidecar: a client of the admin API."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

#: Seconds that an answer may take: changing many letters is done a few seconds at a time.
TIMEOUT: Final = 30.0
#: The most bytes of an answer that are read at once; of an export, a piece.
MAX_ANSWER: Final = 16 * 1024 * 1024
PIECE: Final = 64 * 1024
#: How to ask another one.
_HINT: Final = "--admin URL; --path FOLDER looks at the files of one that is stopped"


class CommandError(Exception):
    """That could not be done; the text says why and what to do, in a line."""


class RefusedError(CommandError):
    """The sidecar did not do it with this one thing (404, 409); perhaps with another."""


class Admin:
    """A running sidecar's admin API. ``hint`` says which arguments lead to another one."""

    def __init__(self, url: str, token: str = "", hint: str = _HINT, accept: str = "*/*") -> None:
        self._base = url.rstrip("/")
        self._hint = hint
        if not self._base.startswith(("http://", "https://")):
            raise CommandError(f"{url!r} is not the URL of an admin API; one looks like http://127.0.0.1:15000")
        self._headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
        # No proxy, whatever the environment says: this goes to a host's own loopback. And the token goes nowhere else.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects()).open

    def ask(self, method: str, path: str, body: bytes = b"", timeout: float = TIMEOUT) -> Mapping[str, Any]:
        """A question whose answer is an object."""
        with self.answer(method, path, body, timeout) as found:
            try:
                content = json.loads(found.read(MAX_ANSWER))
            except (OSError, http.client.HTTPException) as error:
                raise CommandError(f"{self._base} has broken off: {said(error)}") from error
            except (ValueError, RecursionError):
                content = None
        if not isinstance(content, dict):
            raise CommandError(self._not_ours())
        return content

    def answer(self, method: str, path: str, body: bytes = b"", timeout: float = TIMEOUT) -> http.client.HTTPResponse:
        """A question whose answer is anything; it is to be closed."""
        try:
            request = urllib.request.Request(self._base + path, body or None, self._headers, method=method)
            found: http.client.HTTPResponse = self._open(request, timeout=timeout)
            return found
        except urllib.error.HTTPError as error:
            with error:
                of_one = error.code in (404, 409)
                raise (RefusedError if of_one else CommandError)(self._refused(error)) from error
        except urllib.error.URLError as error:
            raise CommandError(self._unreachable(error.reason)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CommandError(self._unreachable(error)) from error

    def _refused(self, error: urllib.error.HTTPError) -> str:
        try:
            content = json.loads(error.read(PIECE))
            code, message = str(content["error"]), str(content["message"])
        except (OSError, http.client.HTTPException, ValueError, RecursionError, LookupError, TypeError):
            return f"{self._not_ours()} (it answered {error.code})"
        if code == "token_needed":
            return "the admin token is needed, or this is not it: --token-file FILE, or SIDECAR_ADMIN_TOKEN"
        return message

    def _not_ours(self) -> str:
        return (
            f"what answers at {self._base} is not the admin API of such a sidecar; see admin.bind in its configuration"
        )

    def _unreachable(self, reason: object) -> str:
        return (
            f"cannot reach {self._base}: {said(reason)}; is the sidecar running, and is this its admin.bind? "
            f"({self._hint})"
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def said(reason: object) -> str:
    """Why it failed, in the system's words."""
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def token(file: str) -> str:
    """The admin token: what is in that file, or the environment's, or none."""
    if not file:
        return os.environ.get("SIDECAR_ADMIN_TOKEN", "").strip()
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {said(error)}") from error
