"""``sidecar exec``: a sidecar and its app as one, as the entry point of a container has them."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.processes import App, Process, ending, free_port, get, wait_for

#: An app that is asked to end calls its upstream once more, and says what came of it. Its child outlives its parent.
FAREWELL = """
import json, os, signal, subprocess, sys, time, urllib.request
def call():
    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
        return json.load(answer)["name"]
def bye(number, frame):
    print("asked", number, call(), flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, bye)
signal.signal(signal.SIGHUP, lambda *_: print("hangup", flush=True))
subprocess.run(["/bin/sh", "-c", "(sleep 0.2; echo orphan) & echo first " + call()])
while True:
    signal.pause()
"""


class Exec(Process):
    def __init__(self, folder: Path, config: dict[str, Any], *command: str) -> None:
        file = folder / "sidecar.yaml"
        file.write_text(yaml.safe_dump(config))
        super().__init__([sys.executable, "-m", "sidecar", "exec", str(file), "--", *command], folder / "exec.log")

    def heard(self, number: signal.Signals) -> bool:
        """The app has said so."""
        return f"heard {number.name}" in self.output()

    def children(self) -> dict[str, list[int]]:
        """The process ids of the sidecar and the app, by which is which; of zombies, too."""
        found: dict[str, list[int]] = {"sidecar": [], "app": [], "zombie": []}
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if int(fields[1]) == self.pid:
                kind = "zombie" if fields[0] == "Z" else "sidecar" if b"exec" in command.split(b"\0") else "app"
                found[kind].append(int(entry.name))
        return found


def children(parent: int) -> list[int]:
    """The process ids of that one's children."""
    return [int(it) for it in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_from_the_first_call_to_the_last(tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    with ending(App(tmp_path, "clock")) as processes:
        clock = processes[0].ready()
        assert isinstance(clock, App)
        config = {
            "service": {"name": "shop"},
            "registry": "none",
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "upstreams": {"clock": {"bind": f"127.0.0.1:{port}", "endpoints": [f"127.0.0.1:{clock.port}"]}},
        }
        it = Exec(tmp_path, config, sys.executable, "-c", FAREWELL, f"http://127.0.0.1:{port}/")
        processes.append(it)
        wait_for(lambda: "orphan" in it.output(), lambda: f"the app has called its upstream: {it.output()}")
        assert "first" in it.output(), "its first call was not too early"

        it.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "hangup" in it.output(), "signals reach the app")

        found = it.children()
        (old,), (app,) = found["sidecar"], found["app"]
        assert os.getpgid(app) == os.getpgid(it.pid) != os.getpgid(old), "Ctrl-C reaches the sidecar once"
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: get(f"http://127.0.0.1:{admin}/ready")[0] == 200, "the sidecar is there again")
        waited = subprocess.run(
            [sys.executable, "-m", "sidecar", "wait", "--admin", f"127.0.0.1:{admin}"], cwd=tmp_path, check=False
        )
        assert waited.returncode == 0
        found = it.children()
        assert found["sidecar"] != [old]
        assert len(found["app"]) == 1
        assert found["zombie"] == []

        assert it.terminate() == 7
        assert "asked 15 clock" in it.output(), "its last call went well, too"


def test_what_cannot_be_started(tmp_path: Path) -> None:
    def code(config: dict[str, Any], *command: str) -> tuple[int, str]:
        it = Exec(tmp_path, config, *command)
        try:
            return it.popen.wait(60), it.output()
        finally:
            it.close()

    config = {"service": {"name": "a"}, "admin": {"bind": "127.0.0.1:0"}}
    found, said = code(config, "/no/such/app")
    assert found == 127
    assert "sidecar exec: /no/such/app: No such file or directory" in said
    assert code({"service": {"nam": "a"}}, "true")[0] == 2
    found, said = code(config)
    assert found == 2
    assert "no app is named" in said


#: An app that hears of every signal, and ends at none.
STUBBORN = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
               signal.SIGWINCH, signal.SIGALRM):
    signal.signal(number, lambda number, frame: print("heard", signal.Signals(number).name, flush=True))
print("begun", flush=True)
while True:
    signal.pause()
"""


def test_an_app_that_does_not_end(tmp_path: Path) -> None:
    """What is the app's reaches it, what asks to end reaches it after the drain; then its time runs out."""
    config = {"service": {"name": "a"}, "admin": {"bind": "127.0.0.1:0"}, "drain": {"timeout": 0, "app": "1s"}}
    with ending(Exec(tmp_path, config, sys.executable, "-c", STUBBORN)) as (it,):
        assert isinstance(it, Exec)
        wait_for(lambda: "begun" in it.output(), it.output)
        for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGHUP, signal.SIGALRM):
            it.popen.send_signal(number)
            wait_for(functools.partial(it.heard, number), it.output)
        (app,) = it.children()["app"]
        os.kill(app, signal.SIGSTOP)  # a stopped one hears of nothing, and is no ended one
        it.popen.send_signal(signal.SIGINT)
        assert it.popen.wait(60) == 137
        assert "heard SIGINT" not in it.output()
        assert "the app has not ended within 1 s of SIGINT (drain.app); it is killed" in it.output()
        assert '"msg":"stopped"' in it.output(), "the sidecar has left as always"


def test_a_hangup_at_any_time_before_the_app_is_no_death(tmp_path: Path) -> None:
    """While the file is being read, which a pipe in its place holds up, and while the start waits for a registry."""
    file = tmp_path / "sidecar.yaml"
    with socket.create_server(("127.0.0.1", 0)) as silent, ending() as processes:
        config = {
            "service": {"name": "a"},
            "admin": {"bind": f"127.0.0.1:{(admin := free_port())}"},
            "registry": f"consul://127.0.0.1:{silent.getsockname()[1]}",  # takes connections, and says nothing
            "upstreams": {"x": {"bind": "127.0.0.1:0", "discover": {"service": "x"}}},
        }
        os.mkfifo(file)
        it = Process(
            [sys.executable, "-m", "sidecar", "exec", str(file), "--", "/bin/sh", "-c", "exit 5"], tmp_path / "exec.log"
        )
        processes.append(it)
        with file.open("w") as pipe:  # as soon as it is read
            it.popen.send_signal(signal.SIGHUP)
            (sidecar,) = children(it.pid)
            os.kill(sidecar, signal.SIGHUP)
            pipe.write(yaml.safe_dump(config))
        file.unlink()
        file.write_text(yaml.safe_dump(config))
        wait_for(lambda: get(f"http://127.0.0.1:{admin}/ready")[0] == 503, "it waits for its registry")
        for process in (it.pid, sidecar):
            os.kill(process, signal.SIGHUP)
        assert it.popen.wait(60) == 5, it.output()
