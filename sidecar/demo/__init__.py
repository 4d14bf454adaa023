"""``sidecar demo``: a small mesh of real processes on this machine, and what becomes of it when parts of it die.

story    the phases, and what is expected of each
mesh     the processes: services with a sidecar each, their configuration and ports
service  the sample services themselves
traffic  the clients, and what they see
observe  what the sidecars say of themselves
picture  the figures of one moment, and how they are drawn
view     the terminal, or lines where there is none
summary  what is left to read at the end
"""

from __future__ import annotations


def run_demo(serve: bool) -> int:
    """Run the demo; the exit code: 0 when everything went as told, 1 when something did not, 130 when interrupted.

    ``serve``: start the mesh without the show, and keep it running until Ctrl-C or SIGTERM; 0, or 1 if it could not
    start.
    """
    from sidecar.demo.run import run

    return run(serve)
