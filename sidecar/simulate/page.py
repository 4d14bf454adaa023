"""Puts figures and plots into a page of the documentation, between a pair of comments that name the scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.simulate.report import Report

#: Where plots are, seen from the page.
IMAGES: Final = "images/resilience"


class PageError(Exception):
    """The page has a place that begins and does not end."""


def draw(report: Report, folder: Path) -> None:
    """Write the plots of a report, each as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in report.plots:
        (folder / f"{plot.name}.svg").write_text(plot.svg(), "utf-8")


def put(report: Report, name: str, seed: int, path: Path) -> bool:
    """Replace what stands between ``<!-- simulate: NAME -->`` and ``<!-- end -->`` on the page by what was found.
    Return whether there is such a place. Raises :class:`PageError`."""
    text = path.read_text("utf-8")
    begin = f"<!-- simulate: {name} -->\n"
    before, found, rest = text.partition(begin)
    if not found:
        return False
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise PageError(f"{path}: {begin.strip()} has no <!-- end --> behind it")
    draw(report, path.parent / IMAGES)
    path.write_text(f"{before}{begin}{_block(report, name, seed)}{end}{after}", "utf-8")
    return True


def _block(report: Report, name: str, seed: int) -> str:
    parts = [report.markdown()]
    parts += [f"![{plot.title}]({IMAGES}/{plot.name}.svg)" for plot in report.plots]
    parts.append(f"`python -m sidecar.simulate {name} --seed {seed}`")
    return "\n" + "\n\n".join(parts) + "\n"
