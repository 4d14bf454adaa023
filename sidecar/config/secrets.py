"""The kind of secrets: texts, or files that hold them."""

from __future__ import annotations

import os
import stat
from typing import Any

from sidecar.config.document import Mapping, Node, Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, CONTROL, Kind, Place, Refused, substituted
from sidecar.config.values import Text
from sidecar.core.secret import Secret

#: The longest secret that is read from a file, bytes.
MAX_SECRET = 64 * 1024


class SecretValue(Kind):
    """A secret: text, or ``{file: path}``, read now, one trailing newline removed. Its text is never shown, whatever
    is wrong with it."""

    allowed = "text (best as ${VARIABLE}), or {file: /run/secrets/name}"

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Scalar):
            scalar = substituted(node, at)
            if scalar is None:
                return BROKEN
            text = "" if scalar is node and scalar.type == "null" else scalar.text
        elif isinstance(node, Mapping):
            path = self._path(node, at)
            if path is None:
                return BROKEN
            if at.reading.offline:
                return BROKEN
            try:
                text = "-" if at.reading.closed else _secret_file(path)
            except Refused as refused:
                return at.report(str(refused), allowed=self.allowed)
        else:
            return at.report("has the wrong type", found="a list", allowed=self.allowed)
        if CONTROL.search(text):
            return at.report(
                "is a secret with a line break or another control character in it", allowed="one line of text"
            )
        return Secret(text)

    def _path(self, node: Mapping, at: Place) -> str | None:
        unknown = [other for key, other in node.entries.items() if key != "file"]
        for other in unknown:
            place = at.at(other.key, other.line)
            place.report("is not a known key", allowed="file", nearest=nearest(other.key, ["file"]))
        entry = node.entries.get("file")
        if entry is None:
            if not unknown:
                at.report("names no file", found="an empty mapping", allowed=self.allowed)
            return None
        path = Text("the path of a file", r"[^\x00]{1,4096}").read(entry.value, at.at("file", entry.line))
        return None if path is BROKEN or unknown else str(at.reading.directory / path)

    def show(self, value: Secret) -> Any:
        return "***" if value else ""

    def schema(self) -> dict[str, Any]:
        file = {"type": "string", "minLength": 1, "description": "A file that holds the secret and nothing else."}
        from_file = {"type": "object", "properties": {"file": file}, "required": ["file"]}
        return {"anyOf": [{"type": "string"}, from_file | {"additionalProperties": False}]}


def _secret_file(path: str) -> str:
    try:
        # Not blocking: a named pipe without a writer must not stop the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(f"names {path!r}, which is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_SECRET + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(f"names {path!r}, which cannot be read: {error.strerror}") from None
    if len(data) > MAX_SECRET:
        raise Refused(f"names {path!r}, which is larger than {MAX_SECRET} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Refused(f"names {path!r}, which is not text in UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Refused(f"names {path!r}, which is empty")
    return text
