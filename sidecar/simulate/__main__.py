"""``python -m sidecar.simulate``."""

import sys

from sidecar.simulate.command import main

raise SystemExit(main(sys.argv[1:]))
