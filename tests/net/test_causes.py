from __future__ import annotations

import errno
import os
import socket

import pytest

from sidecar.net.causes import CAUSES, MAX_WORDS, cause_of, words_for


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (None, "timeout"),
        (TimeoutError(), "timeout"),
        (OSError(errno.ECONNREFUSED, ""), "refused"),
        (OSError(errno.ENETUNREACH, ""), "no_route"),
        (OSError(errno.EPERM, ""), "denied"),
        (OSError(errno.EMFILE, ""), "no_descriptors"),
        (OSError(errno.EADDRNOTAVAIL, ""), "no_ports"),
        (OSError(errno.ENOBUFS, ""), "no_memory"),
        (ConnectionResetError(), "reset"),
        (socket.gaierror(socket.EAI_NONAME, ""), "no_such_name"),
        (UnicodeEncodeError("idna", "x", 0, 1, "label too long"), "no_such_name"),
        (OSError(errno.EINVAL, ""), "other"),
        (ValueError(), "other"),
    ],
)
def test_the_word_for_an_error(error: BaseException | None, cause: str) -> None:
    assert cause_of(error) == cause
    if cause != "other":
        assert words_for(error) == CAUSES[cause]


def test_what_has_no_word_is_said_as_the_system_says_it() -> None:
    assert words_for(OSError(errno.EINVAL, os.strerror(errno.EINVAL))) == "Invalid argument"
    assert words_for(ValueError()) == "ValueError"
    assert words_for(OSError("a\x1b[0mb" + "x" * 500)).startswith("a\\x1b[0mb")
    assert len(words_for(OSError("x" * 500))) <= MAX_WORDS + 1
