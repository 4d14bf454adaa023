"""Two servers of language models behind a real sidecar: the one that has the model is asked, and who leaves takes
nobody's slot."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.request import Request, urlopen

from support.patience import PATIENCE
from support.processes import Sidecar, ending, free_port, get, wait_for
from support.services import Workload

#: An answer to this takes minutes.
ENDLESS = ", ".join(["go on"] * 2000)


def prompt(text: str) -> bytes:
    return json.dumps({"model": "llama3.2", "prompt": text}).encode()


def ask(url: str) -> list[str]:
    request = Request(f"{url}/api/generate", prompt("say hello"), {"content-type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return [json.loads(line)["response"] for line in answer]


def test_the_one_that_has_the_model_and_who_leaves(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    options = ["--slots", "1", "--load", "0", "--rate", "50"]
    folders = [tmp_path / str(port) for port in ports]
    for folder in folders:
        folder.mkdir()
    servers = [
        Workload(folder, "ollama_stand_in", f"http://127.0.0.1:{port}/", "--port", str(port), *options)
        for folder, port in zip(folders, ports, strict=True)
    ]
    upstream = {
        "bind": "127.0.0.1:0",
        "endpoints": [f"127.0.0.1:{port}" for port in ports],
        "profile": "llm",
        "llm": {"slots": 2, "loaded": "ollama"},
    }
    config = {"service": {"name": "tasks"}, "upstreams": {"ollama": upstream}}
    with ending(*servers), ending(Sidecar(tmp_path, config)) as running:
        for server in servers:
            server.ready()
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        url = f"http://127.0.0.1:{sidecar.ready().port('ollama')}"
        assert "".join(ask(url)) == "1. say hello (needs nothing)"

        def told() -> dict[str, object]:
            found: dict[str, object] = get(f"{sidecar.admin}/upstreams/ollama")[1]
            return found

        wait_for(lambda: "llama3.2" in json.dumps(told()["endpoints"]), "it is known who has the model")
        for _ in range(3):
            ask(url)
        _, page = get(f"{sidecar.admin}/metrics")
        tries = re.findall(r'sidecar_endpoint_requests_total\{[^}]*upstream="ollama"[^}]*\} ([0-9.]+)', page)
        assert sorted(map(float, tries)) == [0.0, 4.0]
        assert 'sidecar_llm_slots{state="used",upstream="ollama"} 0.0' in page.replace(
            '{upstream="ollama",state="used"}', '{state="used",upstream="ollama"}'
        )
        assert re.search(r'sidecar_llm_tokens_total\{.*model="llama3.2".*\} 20\.0', page)

        def used() -> object:
            filters = told()["stats"]
            assert isinstance(filters, dict)
            return filters["filters"]["llm"]["used"]

        body = prompt(ENDLESS)
        with socket.create_connection(("127.0.0.1", sidecar.port("ollama")), PATIENCE) as leaving:
            head = b"POST /api/generate HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % len(body)
            leaving.sendall(head + body)
            assert leaving.recv(65536).startswith(b"HTTP/1.1 200")
            assert used() == 1
        wait_for(lambda: used() == 0, "its slot is free")
        for _ in range(2):
            ask(url)  # the server's one slot is free, too, or this would take minutes
