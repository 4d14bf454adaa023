"""What only some users need, and how they get it."""

from __future__ import annotations

from typing import Final

#: What the package is called where packages come from. (``sidecar`` is the name of another project there.)
DISTRIBUTION: Final = "service-sidecar"


def how_to_install(extra: str) -> str:
    """The command that brings an extra of pyproject.toml, for messages."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'
