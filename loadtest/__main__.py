"""``python -m loadtest``: both scenarios without locust's web interface, through a mesh of its own or ``--host``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from bench.processes import ROOT, BenchError
from loadtest.criteria import RefusedHost, require_allowed
from loadtest.mesh import mesh


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every scenario passed, 1 when one did not, 2 for wrong usage and hosts that may not be loaded."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load tests through sidecars.")
    parser.add_argument("--host", metavar="URL", help="what to load; without it, a mesh of its own on loopback")
    parser.add_argument("--path", default="/", help="what to GET (default /)")
    parser.add_argument("--scenario", choices=["burst", "sustained", "both"], default="both")
    parser.add_argument("--run-time", default="20s", help="of the sustained load: 20s (default), 10m, 1h")
    parser.add_argument("--within", default="10", metavar="SECONDS", help="allowed for the burst (default 10)")
    parser.add_argument("--p99", default="500", metavar="MS", help="allowed p99 in milliseconds (default 500)")
    options = parser.parse_args(arguments)
    scenarios = ["burst", "sustained"] if options.scenario == "both" else [options.scenario]
    codes = []
    try:
        if options.host:
            require_allowed(options.host, os.environ)
        else:
            print("Starting a small mesh: two sidecars, one service", flush=True)
        with nullcontext(options.host) if options.host else mesh() as host:
            for scenario in scenarios:
                print(f"{scenario} through {host}{options.path}", flush=True)
                command = [
                    sys.executable,
                    "-m",
                    "locust",
                    "-f",
                    "loadtest/locustfile.py",
                    "--headless",
                    "--only-summary",
                ]
                command += ["--loglevel", "WARNING", "--host", host, "--path", options.path, "--p99", options.p99]
                command += ["--scenario", scenario, "--within", options.within]
                command += ["--run-time", options.run_time] if scenario == "sustained" else []
                codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
    except RefusedHost as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except BenchError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
