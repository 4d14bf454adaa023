"""What the compiler reads, for modules that are compiled. This one is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**_):
        """Only the compiler heeds it; the package that has it is not needed at run time."""
        return lambda cls: cls
