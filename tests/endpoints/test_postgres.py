"""The question to a PostgreSQL server: logins, what each answer means, and servers that are none."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.health import Unsure
from sidecar.core.secret import Secret
from sidecar.endpoints.postgres import MAX_MESSAGE, MAX_MESSAGES, Question
from sidecar.endpoints.postgres_check import Primary
from sidecar.endpoints.postgres_login import Salted, Scram, prepared
from support.clock import Clock
from support.postgres import READY, WELCOME, FakePostgres, PostgresPort, answer, error, login, message, question, row

WRITES, READS = answer("off", "0000000A"), answer("on")


def asked(it: Question, server: FakePostgres, size: int = 10_000) -> Question:
    """Let the two talk, in pieces of that size at most."""
    out = it.begin
    for _ in range(20):
        said = server.feed(out)
        out = b"".join(it.feed(said[n : n + size]) for n in range(0, len(said), size))
        if it.over:
            break
    server.feed(out)
    return it


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("method", ["trust", "md5", "scram-sha-256"])
def test_it_logs_in_as_the_server_asks(method: str, size: int) -> None:
    server = FakePostgres(method, "a secret, with = and ,", lambda: WRITES)
    it = asked(question("a secret, with = and ,"), server, size)
    assert (it.over, it.writable, it.timeline) == (True, True, 10)
    assert server.parameters == {"user": "tester", "database": "postgres", "application_name": "sidecar-health"}
    assert len(server.queries) == 1
    assert server.ended, "it says good-bye"


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
@pytest.mark.parametrize(("password", "words"), [("wrong", "password authentication failed"), ("", "none is config")])
def test_a_refused_login_says_nothing_about_the_server(method: str, password: str, words: str) -> None:
    with pytest.raises(Unsure, match=words):
        asked(question(password), FakePostgres(method, "right", lambda: WRITES))


def test_who_does_not_know_the_password_is_not_believed() -> None:
    with pytest.raises(ValueError, match="does not know the password"):
        asked(question("right"), FakePostgres("scram-sha-256", "guessed", lambda: WRITES, honest=False))
    it = question("right")
    it.feed(login(10, b"SCRAM-SHA-256\0\0"))
    with pytest.raises(ValueError, match="without a proof"):
        it.feed(login(0))


def test_answers() -> None:
    it = question()
    it.feed(login(0) + message("S", b"in_hot_standby\0on\0") + READY)
    assert it.feed(READS) == message("X", b"")
    assert (it.writable, it.standby, it.timeline) == (False, True, 0)
    it = question()  # something like PostgreSQL, that knows no timelines
    it.feed(WELCOME)
    it.feed(row("off") + error("42883", "function pg_walfile_name(pg_lsn) does not exist"))
    assert (it.over, it.writable, it.timeline) == (True, True, 0)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (error("57P03", "the database system is starting up"), ValueError, "it says: .*starting up \\(57P03\\)"),
        (error("53300", "sorry, too many clients already"), Unsure, "too many clients"),
        (error("3D000", 'database "x" does not exist'), Unsure, "does not exist"),
        (error("28000", 'no pg_hba.conf entry for host "::1", user "x", no encryption'), Unsure, "do not speak TLS"),
        (error("28000", "a\nb\x1b[31m" + "x" * 500), Unsure, r"a\\nb\\x1b\[31mx+… \(28000\)"),
        (login(3), Unsure, "clear text, which is not sent"),
        (login(7), Unsure, "GSSAPI"),
        (login(77), Unsure, "way 77"),
        (login(10, b"OAUTHBEARER\0\0"), Unsure, "OAUTHBEARER"),
        (login(5, b"1234") * 2, ValueError, "twice"),
        (login(5, b"123"), ValueError, "does not speak"),
        (login(11, b"r=x"), ValueError, "does not speak"),
        (message("R", b""), ValueError, "does not speak"),
        (b"HTTP/1.1 400 Bad Request\r\n", ValueError, "does not speak"),
        (b"S\0\0\0\3", ValueError, "does not speak"),
        (b"S" + (MAX_MESSAGE + 1).to_bytes(4, "big"), ValueError, "does not speak"),
        (message("N", b"x") * (MAX_MESSAGES + 1), ValueError, "says too much"),
        (READY, ValueError, "has not answered"),
        (WELCOME + READY, ValueError, "has not answered"),
        (WELCOME + message("I", b""), ValueError, "has not answered"),
        (WELCOME + login(0), ValueError, "does not speak"),
        (row("off"), ValueError, "not answer what was asked"),
        (WELCOME + row("maybe"), ValueError, "not answer what was asked"),
        (WELCOME + message("D", b"\0\1\0\0\0\x09off"), ValueError, "not answer what was asked"),
    ],
)  # fmt: skip
def test_what_else_a_server_may_say(said: bytes, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        question("secret").feed(said)


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("r=other,s=AAAA,i=4096", "challenge is none"),
        ("r=mine,s=AAAA,i=4096", "challenge is none"),
        ("r=minex,s=AAAA,i=0", "challenge is none"),
        ("r=minex,s=AAAA,i=100001", "at most 100000"),
        ("r=minex,s=AAA,i=4096", "padding"),
        ("r=mine" + "x" * 3000 + ",s=AAAA,i=1", "challenge is none"),
        ("r=minex,s=AAAA,i=1,\xff", "ascii"),
    ],
)
def test_challenges_that_are_none(challenge: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scram(Salted("x"), lambda: "mine").answer(challenge.encode("latin-1"))


def test_the_example_of_rfc_7677() -> None:
    scram = Scram(Salted("pencil"), lambda: "rOprNGfwEbeRWgbNEkqO")
    scram._bare = "n=user,r=rOprNGfwEbeRWgbNEkqO"  # the RFC's client says its name
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    found = scram.answer(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode())
    assert found == f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    for wrong in (b"e=other-error", b"v=AAAA", b"v=*"):
        with pytest.raises(ValueError):
            scram.check(wrong)
    assert not scram.proven
    scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert scram.proven


def test_passwords_are_salted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    def counted(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        made.append(salt)
        return salt

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    salted = Salted("x")
    for _ in range(3):
        assert salted(b"one", 4096) == b"one"
    assert made == [b"one"]
    for n in range(100):
        salted(b"%d" % n, 1)
    assert len(salted._known) <= 32


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("pass word", "pass word"),
        ("I\u00adX", "IX"),  # RFC 4013, section 3
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u00fc\u0007", "\u00fc\u0007"),  # prohibited: as it is
        ("\u0627\u0031", "\u0627\u0031"),  # written both ways: as it is
        ("\u0627\u00e9", "\u0627\u00e9"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u00ad", "\u00ad"),  # nothing would be left
    ],
)
def test_passwords_are_prepared_as_by_the_server(given: str, found: str) -> None:
    assert prepared(given) == found.encode()


PIECES = st.sampled_from([
    WELCOME, WRITES, READS, READY, login(0), login(5, b"abcd"), login(10, b"SCRAM-SHA-256\0\0"), login(11, b"r=x"),
    login(12, b"v=x"), row("off"), row("on"), error("28000", "no"), error("42883", "no"), message("N", b"notice\0"),
])  # fmt: skip


@given(st.lists(PIECES | st.binary(max_size=40), max_size=12), st.integers(1, 50))
def test_whatever_comes_it_ends_or_goes_on_within_bounds(pieces: list[bytes], size: int) -> None:
    it = question("secret")
    data = b"".join(pieces)
    sent, said = 0, ""
    for n in range(0, len(data), size):
        try:
            sent += len(it.feed(data[n : n + size]))
        except (ValueError, Unsure) as told:
            said = str(told)
        assert len(it._data) <= MAX_MESSAGE + size
        if it.over or said:
            break
    assert "secret" not in said
    assert sent <= 1000
    assert it.over <= (it.writable is not None)


async def _told(port: PostgresPort, primary: Primary) -> str:
    found = await primary.ask([("127.0.0.1", port.port)])
    return f"{found.status}: {found.output.removeprefix('PostgreSQL: ')}"


def test_of_two_that_accept_writes_the_one_left_behind_is_out() -> None:
    async def main() -> None:
        clock = Clock()
        primary = Primary("tester", "postgres", Secret("x"), clock)
        old = PostgresPort(answer("off", "00000001"), "scram-sha-256", "x")
        async with old, PostgresPort(answer("on")) as new:
            assert await _told(old, primary) == "healthy: it accepts writes"
            assert await _told(new, primary) == "unhealthy: it is read-only"
            new.says = answer("off", "00000002")
            assert await _told(new, primary) == "healthy: it accepts writes"
            assert "timeline 1, while another is on 2" in await _told(old, primary)
            old.says = answer("off", "00000003")
            assert await _told(old, primary) == "healthy: it accepts writes"
            assert (await _told(new, primary)).startswith("unhealthy")
            clock.advance(601)  # the other one has not been heard of for long
            assert await _told(new, primary) == "healthy: it accepts writes"

    asyncio.run(main())


def test_a_server_that_closes_the_connection() -> None:
    async def main() -> None:
        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", 0)
        async with server:
            with pytest.raises((EOFError, OSError)):
                await Primary("a", "b", Secret("")).ask([server.sockets[0].getsockname()[:2]])

    asyncio.run(main())
