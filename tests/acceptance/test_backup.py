"""As docs/operations.md says, stored requests are copied with the sidecar's process stopped for as long as that takes.
Put back in an empty folder, such a copy has all that was acknowledged before."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

from support.processes import Sidecar, ending, free_port, wait_for
from support.recorder import Recorder, post, queueing_sidecar

FILE = "tasks~queue.db"


def test_a_copy_of_a_stopped_process_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    app_port, port = free_port(), free_port()
    config = queueing_sidecar(tmp_path, app_port, port)
    folder, copy = tmp_path / "spool", tmp_path / "copy"
    copy.mkdir()
    acknowledged: list[str] = []
    enough, end = threading.Event(), threading.Event()

    def client() -> None:
        number = 0
        while not end.is_set():
            number += 1
            if post(port, body := f"n{number}")[0] == 202:
                acknowledged.append(body)
            if len(acknowledged) > 40:
                enough.set()

    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        thread = threading.Thread(target=client)
        thread.start()
        try:
            assert enough.wait(60)
            os.kill(sidecar.pid, signal.SIGSTOP)
            before = list(acknowledged)
            for name in (FILE, f"{FILE}-wal"):
                shutil.copyfile(folder / name, copy / name)
        finally:
            end.set()
            os.kill(sidecar.pid, signal.SIGCONT)
            thread.join()
        sidecar.kill()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        restored = Sidecar(tmp_path, config, "restored")
        app = Recorder(tmp_path, app_port, 0)
        processes += [restored, app]
        restored.ready()
        wait_for(lambda: set(before) <= {body for body, _ in app.got()}, "all that was acknowledged is delivered")
        assert '"level":"error"' not in restored.output()
