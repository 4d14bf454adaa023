"""The kinds of names and patterns of AMQP."""

from __future__ import annotations

import re
from typing import Any

from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import Refused, ScalarKind
from sidecar.config.values import Text


class ShortString(Text):
    """A name on the wire of AMQP: at most 255 bytes in UTF-8 (0-9-1, section 4.2.5.3). ``empty``: an empty one is
    allowed, in quotes, as ``key:`` alone is rather something forgotten."""

    def __init__(self, allowed: str, *, empty: bool = False) -> None:
        super().__init__(f"{allowed} of at most 255 bytes", r"[^\x00-\x1f\x7f]{1,255}", empty=empty)

    def parse(self, scalar: Scalar) -> str:
        if scalar.type == "null":
            raise Refused("has no value")
        text = super().parse(scalar)
        if len(text.encode()) > 255:
            raise Refused("is too long")
        return text


class TopicPattern(ShortString):
    """A binding key of a topic exchange: words between dots, where ``*`` stands for one word and ``#`` for any number.
    Inside a word these would be plain characters for the broker, which is never what was meant."""

    def __init__(self) -> None:
        words = 'a pattern in quotes, as "ai.*.#" (words between dots; * is one word, # any number of them),'
        super().__init__(words, empty=True)

    def parse(self, scalar: Scalar) -> str:
        if scalar.type == "null":
            raise Refused("has no value (without quotes, a # begins a comment)")
        text = super().parse(scalar)
        if any(len(word) > 1 and ("*" in word or "#" in word) for word in text.split(".")):
            raise Refused("has a * or # that is only a part of a word; each stands for whole words")
        return text


class MessageKey(ScalarKind):
    """What of a message decides on its partition: a header by its name, ``property:<name>``, or ``key:<n>``, a word of
    the routing key."""

    #: The properties that are short strings and say something about a single message or its sender.
    properties = ("correlation-id", "reply-to", "message-id", "type", "user-id", "app-id")
    #: A routing key of 255 bytes has no more words worth the name.
    most_words = 128
    allowed = (
        f"the name of a header, property:<name> ({', '.join(properties)}), or key:<n> (a word of the routing key, "
        f"from 1 to {most_words})"
    )
    _WORD = re.compile(r"[1-9][0-9]{0,2}")
    _HEADER = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if scalar.type == "null":
            raise Refused("has no value")
        if scalar.type != "str":
            raise Refused(f"is not text for YAML; put it in quotes: {text!r}")
        what, colon, name = text.partition(":")
        if not colon:
            what, name = "header", text
        if what == "header":
            if not self._HEADER.fullmatch(name) or len(name.encode()) > 255:
                raise Refused("is not the name of a header")
            return name
        if what == "property":
            name = name.replace("_", "-")
            if name not in self.properties:
                raise Refused("is not a property to go by", nearest=nearest(name, self.properties))
            return f"property:{name}"
        if what == "key":
            if not self._WORD.fullmatch(name) or int(name) > self.most_words:
                raise Refused("is not the number of a word")
            return text
        raise Refused("is nothing to go by", nearest=nearest(what, ("header", "property", "key")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}
