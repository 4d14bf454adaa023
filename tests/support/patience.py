"""How long tests wait for what must come."""

from __future__ import annotations

from typing import Final

#: Seconds until it counts as not coming. This is what a failure costs, and no measure of anything: on a machine that
#: does other work too, everything may take long. It is less than a test's limit, so that the failure says what did not
#: come.
PATIENCE: Final = 60.0
