from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import __version__
from sidecar.cli.main import main
from sidecar.core.build import amqp_scanner, build, scanner
from support.agents import RunningAgent, upstream
from support.live import run
from support.processes import ROOT, command

GOOD = """
service: {name: web}
upstreams:
  tasks: {bind: "127.0.0.1:0", endpoints: ["127.0.0.1:9"]}
admin: {bind: "127.0.0.1:0"}
"""
BAD = """
service: {name: web}
upstreams:
  tasks:
    bind: 127.0.0.1:8000
    endpoints: ["127.0.0.1:9"]
    retry: {max_atempts: 3}
    balancer: roundrobin
admin: {bind: "127.0.0.1:0"}
"""


def config(folder: Path, text: str) -> str:
    file = folder / "sidecar.yaml"
    file.write_text(text)
    return str(file)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("run", "check", "schema", "demo", "status", "spool", "examples:", "SIGTERM", "SIGHUP", "exit codes"):
        assert word in text


@pytest.mark.parametrize("command", ["run", "check", "schema", "demo", "status", "spool"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    heads, amqp = ({"c": "C", "python": "Python"}[it] for it in (scanner(), amqp_scanner()))
    python = platform.python_version()
    told = f"sidecar {__version__} ({build()}, heads read in {heads}, AMQP in {amqp}, Python {python})\n"
    assert capsys.readouterr().out == told


def test_without_arguments_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: sidecar" in err


@pytest.mark.parametrize("arguments", [["runn", "x"], ["run", "a", "b"], ["exec"], ["--nope"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sidecar" in capsys.readouterr().err


def test_check_of_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", config(tmp_path, GOOD)]) == 0
    out, err = capsys.readouterr()
    assert "fine" in out
    assert "web" in out
    assert err == ""


def test_what_is_read_when_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_CONFIG", GOOD)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "env:SIDECAR_CONFIG: fine (web: 1 listener, registry: none)\n"
    monkeypatch.setenv("SIDECAR_CONFIG", BAD)
    assert main(["check"]) == 2
    assert "env:SIDECAR_CONFIG:8:5: upstreams.tasks.balancer: " in capsys.readouterr().err
    monkeypatch.setenv("SIDECAR_CONFIG", "")
    monkeypatch.setattr("sidecar.config.environment.DEFAULT_FILE", "/nowhere/sidecar.yaml")
    assert main(["check"]) == 2
    assert "/nowhere/sidecar.yaml: cannot be read: No such file or directory" in capsys.readouterr().err


def test_exec_needs_no_file_either(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, list[str]]] = []

    def execute(path: str, command: list[str]) -> int:
        ran.append((path, command))
        return 7

    monkeypatch.setattr("sidecar.cli.exec.execute", execute)
    monkeypatch.setenv("SIDECAR_CONFIG", GOOD)
    assert main(["exec", "--", "app", "--flag", "--", "x"]) == 7
    assert main(["exec", "a.yaml", "--", "app"]) == 7
    assert ran == [("env:SIDECAR_CONFIG", ["app", "--flag", "--", "x"]), ("a.yaml", ["app"])]


def test_check_tells_every_error_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", config(tmp_path, BAD)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "upstreams.tasks.retry.max_atempts" in err
    assert "max_attempts" in err
    assert "upstreams.tasks.balancer" in err
    assert "round_robin" in err
    assert "Traceback" not in err


def test_check_counts_in_the_right_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", config(tmp_path, GOOD)]) == 0
    assert "(web: 1 listener, registry: none)" in capsys.readouterr().out
    assert main(["check", config(tmp_path, "service: {name: web}")]) == 0
    assert "(web: 0 listeners, registry: none)" in capsys.readouterr().out


def test_check_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    typed(GOOD)
    assert main(["check", "-"]) == 0
    assert capsys.readouterr().out.startswith("<stdin>: fine (web: ")
    typed(BAD)
    assert main(["check", "-"]) == 2
    assert "<stdin>:8:5: upstreams.tasks.balancer: " in capsys.readouterr().err


def test_check_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", config(tmp_path, GOOD)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    file = config(tmp_path, BAD)
    assert main(["check", "--json", file]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    first, second = json.loads(out)
    assert first == {
        "file": file, "line": 7, "column": 13, "path": "upstreams.tasks.retry.max_atempts",
        "message": "is not a known key", "found": "", "nearest": "max_attempts", "allowed": first["allowed"],
    }  # fmt: skip
    assert second["nearest"] == "round_robin"


def test_check_without_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace("name: web", "name: '${NOBODY_HAS_SET_THIS}'") + "consul: {token: {file: none}}\n"
    assert main(["check", "--offline", config(tmp_path, text)]) == 0
    assert main(["check", config(tmp_path, text)]) == 2
    assert "NOBODY_HAS_SET_THIS" in capsys.readouterr().err


def test_check_of_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nothing.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_check_knows_what_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(
        "service: {name: a}\n"
        "upstreams:\n"
        "  mq: {bind: '127.0.0.1:5672', protocol: amqp, endpoints: ['127.0.0.1:1'], amqp: {credentials: "
        "{username: u, password: p}}}\n"
    )
    assert main(["check", str(file)]) == 0
    monkeypatch.setitem(sys.modules, "aio_pika", None)
    assert main(["check", str(file)]) == 2
    said = capsys.readouterr().err
    assert "upstreams.mq.amqp.credentials" in said
    assert 'pip install "service-sidecar[amqp]"' in said
    assert main(["check", "--offline", str(file)]) == 0, "where it is checked need not be where it runs"


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["type"] == "object"
    assert {"service", "registry", "inbound", "upstreams", "admin"} <= set(schema["properties"])


def test_run_with_a_bad_file_ends_at_once(tmp_path: Path) -> None:
    code, said = command(tmp_path, "run", config(tmp_path, BAD))
    assert code == 2
    assert "upstreams.tasks.retry.max_atempts" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("which", ["upstream", "admin"])
def test_a_port_in_use_is_told_plainly(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        old = 'bind: "127.0.0.1:0", e' if which == "upstream" else 'admin: {bind: "127.0.0.1:0"'
        text = GOOD.replace(old, old.replace("127.0.0.1:0", address))
        code, said = command(tmp_path, "run", config(tmp_path, text))
    assert code == 1
    (line,) = (json.loads(line) for line in said.splitlines())
    assert line["level"] == "error"
    assert line["msg"].startswith("not started: ")
    assert address in line["msg"]
    assert "Address already in use" in line["msg"]


def test_a_start_that_fails_is_told_in_the_format_of_the_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = GOOD.replace('admin: {bind: "127.0.0.1:0"}', f"admin: {{bind: '{address}'}}\nlog: {{format: text}}")
        code, said = command(tmp_path, "run", config(tmp_path, text))
    assert code == 1
    (line,) = said.splitlines()
    assert "error   sidecar.agent not started: admin: cannot listen" in line


@pytest.mark.parametrize("wrong", ["upstreams: 1", "a: b: c", "\t- x"])
def test_a_wrong_file_is_one_line_of_json_for_a_log(tmp_path: Path, wrong: str) -> None:
    code, said = command(tmp_path, "run", config(tmp_path, wrong))
    assert code == 2
    (line,) = (json.loads(line) for line in said.splitlines())
    assert (line["level"], line["msg"]) == ("error", "not started: the configuration cannot be used")
    assert line["problems"]
    assert all(problem["message"] and problem["file"].endswith("sidecar.yaml") for problem in line["problems"])


def test_a_wrong_file_is_text_where_the_log_is(tmp_path: Path) -> None:
    code, said = command(tmp_path, "run", config(tmp_path, BAD + "log: {format: text}\n"))
    assert code == 2
    assert "    did you mean max_attempts?" in said.splitlines()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "schema"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files_do_not_matter(tmp_path: Path, closed: str) -> None:
    line = f'"{sys.executable}" -m sidecar check "{config(tmp_path, GOOD)}" {closed}'
    assert subprocess.run(["/bin/sh", "-c", line], cwd=ROOT, timeout=60).returncode == 0


def test_importing_aiohttp_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.agent.run import _import_aiohttp

    monkeypatch.setenv("SSL_CERT_FILE", "/ours.pem")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    _import_aiohttp()
    assert os.environ["SSL_CERT_FILE"] == "/ours.pem"
    assert "SSL_CERT_DIR" not in os.environ


def test_check_against_a_running_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def asked() -> None:
        token = {"bind": "127.0.0.1:0", "token": "sesame"}
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}, admin=token) as it:
            url = f"http://{it.agent.admin_address}"

            async def check(*more: str) -> tuple[int, str]:
                code = await asyncio.to_thread(main, ["check", str(it.file), "--against", url, *more])
                return code, capsys.readouterr().out

            assert await check() == (0, "a reload would change nothing\n")
            it.write(upstreams={"a": upstream(timeout={"request": "3s"})})
            assert await check() == (0, "a reload would change:\n  upstreams.a.timeout.request: 30 → 3\n")
            it.write(tracing={"propagate": []})
            code, out = await check("--json")
            assert code == 1
            assert [it["path"] for it in json.loads(out)["refused"]] == ["tracing.propagate"]

    run(asked)


def test_diff_with_a_running_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def asked() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:

            async def diff(*more: str) -> tuple[int, str]:
                arguments = ["diff", str(it.file), "--admin", f"http://{it.agent.admin_address}", *more]
                return await asyncio.to_thread(main, arguments), capsys.readouterr().out

            assert await diff() == (0, "a reload would change nothing\n")
            it.write(upstreams={"a": upstream(balancer="random")})
            assert await diff() == (1, "a reload would change:\n  upstreams.a.balancer: round_robin → random\n")
            it.write(service={"name": "other"})
            code, out = await diff("--json")
            assert (code, json.loads(out)["refused"][0]["path"]) == (3, "service.name")
            it.file.write_text("service: {nam: web}")
            assert (await diff())[0] == 2

    run(asked)
    file = tmp_path / "a.yaml"
    file.write_text("service: {name: web}\n")
    assert main(["diff", str(file), "--admin", "127.0.0.1:9"]) == 4
    assert "sidecar diff: cannot reach http://127.0.0.1:9" in capsys.readouterr().err


def test_check_against_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("service: {name: web}\n")
    assert main(["check", str(file), "--against", "127.0.0.1:9"]) == 1
    assert "cannot reach http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["check", str(file), "--against", "127.0.0.1:9", "--offline"]) == 2
