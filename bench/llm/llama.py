"""``python -m bench.llm.llama MODEL PORT SLOTS``: the server of llama.cpp with a model, until it is ended."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from typing import Any


def main(model: str, port: str, slots: str) -> None:
    xllamacpp = import_module("xllamacpp")  # only who measures with a real model has it
    options: Any = xllamacpp.CommonParams()
    options.model.path = model
    options.port = int(port)
    options.n_parallel = int(slots)
    options.n_ctx = 4096 * int(slots)
    options.cpuparams.n_threads = 1  # the other core is the sidecar's and the clients'
    options.n_batch = 64  # between these it looks whether its client is there
    options.endpoint_slots = True
    options.warmup = False
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
