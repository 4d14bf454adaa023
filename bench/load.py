"""The load: wrk on its core for some seconds, and what it measured."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import Contender
from bench.processes import ROOT, BenchError
from bench.upstream import FAILS

SCRIPT = Path(__file__).with_name("report.lua")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load: ``headers`` are sent beside Host; about ``fails`` of the answers are errors of the app's."""

    name: str
    title: str
    connections: int
    path: str = "/small"
    tcp: bool = False
    headers: tuple[str, ...] = ()
    fails: float = 0.0


#: With Host the nine that a client library sends for a person with a session.
NINE: Final = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: http://127.0.0.1/tasks",
    "Cookie: session=7f3c1c9d5b6e4a0f8c2d; theme=dark",
    "Authorization: Bearer 0123456789abcdef0123456789abcdef",
    "Cache-Control: no-cache",
)


CASES = (
    Case("c1", "small body, 1 connection", 1),
    Case("c32", "small body, 32 connections", 32),
    Case("nine", "small body, nine headers, 32 connections", 32, headers=NINE),
    Case("errors", "small body, 1 % errors, 32 connections", 32, path="/mixed", fails=FAILS),
    Case("close", "small body, a connection for each request, 32 at once", 32, headers=("Connection: close",)),
    Case("c256", "small body, 256 connections", 256),
    Case("large", "1 MiB body, 32 connections", 32, path="/large"),
    Case("tcp", "TCP mode, small body, 32 connections", 32, tcp=True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """``cpu``: the proxy's microseconds of CPU per request (0 for direct); ``rate``: requests per second; ``p50`` and
    ``p99``: microseconds; ``errors``: answers other than 2xx and 3xx that the case does not have, and failed
    connections."""

    cpu: float
    rate: float
    p50: float
    p99: float
    errors: int


def measure(case: Case, contender: Contender, seconds: float, core: int, settle: float = 0.0) -> Sample:
    """Put the case's load on the contender and read its CPU time around it, and for ``settle`` seconds behind it."""
    port = contender.tcp if case.tcp else contender.http
    command = [
        "taskset", "-c", str(core),
        "wrk", "-t1", f"-c{case.connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT),
        *(part for header in case.headers for part in ("-H", header)),
        f"http://127.0.0.1:{port}{case.path}",
    ]  # fmt: skip
    before = contender.process.cpu() if contender.process else 0.0
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"wrk did not end within 30 s of its time ({case.title}, {contender.name})") from None
    time.sleep(settle)
    used = (contender.process.cpu() if contender.process else 0.0) - before
    if done.returncode != 0:
        raise BenchError(f"wrk failed with exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    requests = result["requests"]
    if not requests:
        raise BenchError(f"no answer at all from {contender.name} ({case.title})")
    return Sample(
        cpu=used * 1e6 / requests,
        rate=requests * 1e6 / result["duration_us"],
        p50=result["p50_us"],
        p99=result["p99_us"],
        errors=result["errors"] + unexpected(result["failed"], requests, case.fails),
    )


def unexpected(failed: int, requests: int, share: float) -> int:
    """How many of the answers were errors that should have been none. Those of a case with errors are drawn by lot, so
    half as many and twice as many are as they should be."""
    return 0 if share * requests / 2 <= failed <= share * requests * 2 else max(failed, 1)


def wait_ready(contender: Contender, since: float, timeout: float = 20.0) -> float:
    """Seconds from ``since`` (monotonic) until the contender passes a request through to the upstream."""
    while time.monotonic() - since < timeout:
        if contender.process:
            contender.process.check()
        try:
            if _get(contender.http, "/small")[0] == 200:
                return time.monotonic() - since
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.005)
    raise BenchError(f"{contender.name} did not answer within {timeout:g} s")


def check_duties(contender: Contender) -> None:
    """What can be seen from outside: the upstream was handed a request id and a valid trace header."""
    if contender.process is None:
        return
    headers = json.loads(_get(contender.http, "/echo")[1])
    if not headers["x-request-id"]:
        raise BenchError(f"{contender.name} gave the upstream no x-request-id, so the comparison would not be fair")
    if not re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", headers["traceparent"]):
        raise BenchError(f"{contender.name} gave the upstream no traceparent, so the comparison would not be fair")


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
