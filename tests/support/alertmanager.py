"""A real Alertmanager, ``amtool``, and what its webhooks reach, for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from support.processes import ROOT, Process, free_port, get, missing, wait_for

CONFIG = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"


def amtool(*arguments: str) -> str:
    """What it says; fails when it finds something wrong."""
    program = shutil.which("amtool") or missing("there is no amtool: install the package prometheus-alertmanager")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


class Message(NamedTuple):
    """What a webhook was told. ``path`` says which one it is."""

    path: str
    authorization: str
    body: dict[str, Any]


class Webhook:
    """Notes what it is told, and says that it was taken."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                messages.append(Message(self.path, self.headers.get("authorization", ""), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True)

    def alerts(self, name: str) -> list[tuple[Message, dict[str, Any]]]:
        """The alerts of that name, each with the message that brought it."""
        return [
            (message, alert)
            for message in list(self.messages)
            for alert in message.body["alerts"]
            if alert["labels"]["alertname"] == name
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Alertmanager(Process):
    """As ``deploy/alertmanager`` says, but it tells at once, and tells that webhook, with this token."""

    def __init__(self, folder: Path, webhook: int, token: str) -> None:
        names = ("prometheus-alertmanager", "alertmanager")  # Debian's, the project's
        program = next(filter(None, map(shutil.which, names)), None)
        if program is None:
            missing("there is no alertmanager: install the package prometheus-alertmanager")
        self.port = free_port()
        secret = folder / "webhook-token"
        secret.write_text(token)
        given = yaml.safe_load(CONFIG.read_text())
        for route in (given["route"], *given["route"]["routes"]):
            route |= {"group_wait": "1s", "group_interval": "1s"}
        for receiver in given["receivers"]:
            (hook,) = receiver["webhook_configs"]
            hook["url"] = f"http://127.0.0.1:{webhook}/{receiver['name']}"
            hook["http_config"]["authorization"]["credentials_file"] = str(secret)
        config = folder / "alertmanager.yml"
        config.write_text(yaml.safe_dump(given))
        super().__init__(
            [
                program,
                f"--config.file={config}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
            folder / "alertmanager.log",
        )

    def ready(self) -> Self:
        wait_for(
            lambda: get(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200, lambda: f"Alertmanager:\n{self.output()}"
        )
        return self

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """The alerts of that name that it has, hidden ones too."""
        found = get(f"http://127.0.0.1:{self.port}/api/v2/alerts")[1]
        return [alert for alert in found if alert["labels"]["alertname"] == name]
