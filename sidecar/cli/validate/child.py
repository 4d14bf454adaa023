"""The temporary sidecar's process: ``sidecar run`` that drains when the validation's own process dies."""

from __future__ import annotations

import os
import signal
import sys

from sidecar.agent.process import end_with_parent


def main() -> int:
    """Run with the file and the parent's process id of the command line."""
    path, parent = sys.argv[1:3]
    end_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):  # it has ended already
        return 1
    from sidecar.cli.main import main as sidecar

    sys.argv = ["sidecar", "run", path]  # as typed: signals are held back from the beginning
    return sidecar()


if __name__ == "__main__":
    sys.exit(main())
