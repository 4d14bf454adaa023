"""``sidecar attach``: what to add, so that a service of a compose file gets a sidecar."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sidecar.cli.attach.compose_file import Service

_EPILOG: Final = """\
examples:
  sidecar attach compose.yml shop                      an override file and a configuration, to read
  sidecar attach compose.yml shop -o deploy            write them: deploy/shop.sidecar.yml, deploy/shop.yaml
  sidecar attach compose.yml shop --kubernetes         a ConfigMap, and a patch of a Deployment
  sidecar attach compose.yml shop --swarm              the sidecar as the entry point of the app's own image
  sidecar attach compose.yml shop --systemd            a unit for a host

What the service listens on comes from its ports, what it dials from the addresses in its environment and from
depends_on; variables with such addresses are set to the ports of the sidecar. Read what comes out: a compose file does
not say everything. What was guessed or left out is said on stderr. docs/attach.md has what each way to attach is
good for.

exit codes: 0 printed or written; 2 usage, or the file has no such service
"""


def add_parser(commands: Any) -> None:
    """``sidecar attach`` and its arguments."""
    attach = commands.add_parser(
        "attach",
        help="what to add to give a service a sidecar: Compose, Swarm, Kubernetes, systemd",
        description="Print what gives a service of a compose file a sidecar, and a configuration for it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    attach.add_argument("compose", metavar="COMPOSE", help="the compose file that has the service")
    attach.add_argument("service", metavar="SERVICE", help="its name there")
    kind = attach.add_mutually_exclusive_group()
    for name in ("swarm", "kubernetes", "systemd"):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=f"for {name.capitalize()}")
    attach.add_argument(
        "--registry", metavar="URL", default="",
        help="where instances with a sidecar are found, and this one is registered (default: consul://consul:8500); or "
        "none",
    )  # fmt: skip
    attach.add_argument("-o", "--output", metavar="FOLDER", default="", help="write files, but over none")
    attach.set_defaults(command=_attach, kind="compose")


def _attach(options: argparse.Namespace) -> int:
    from sidecar.cli.attach.compose_file import AttachError, read
    from sidecar.cli.attach.config import remarks

    try:
        service = read(options.compose, options.service)
        files = made(options.compose, service, options.kind, options.registry, options.output)
        if options.output:
            _write(Path(options.output), files)
    except AttachError as error:
        print(f"sidecar attach: {error}", file=sys.stderr)
        return 2
    if not options.output:
        print("\n".join(f"# ---- {name}\n{text}" for name, text in files.items()), end="", flush=True)
    for remark in remarks(service, Path(options.compose).name, options.registry):
        print(f"sidecar attach: {remark}", file=sys.stderr)
    return 0


def made(compose: str, service: Service, kind: str, registry: str = "", folder: str = "") -> dict[str, str]:
    """File name → what belongs into it. ``registry``: empty, the default one; ``none``, there is none. ``folder`` is
    where the files will be, that of the compose file unless given: paths in them count from that file's, as Compose
    has it.
    Raises :class:`~sidecar.cli.attach.compose_file.AttachError`."""
    from sidecar.cli.attach import render
    from sidecar.cli.attach.config import REGISTRY, configuration

    name = service.name
    file = f"{name}.yaml"
    own = configuration(service, "" if registry == "none" else registry or REGISTRY)
    if kind == "kubernetes":
        return render.kubernetes(service, own)
    if kind == "systemd":
        return {f"{name}-sidecar.service": render.systemd(service, f"/etc/sidecar/{file}"), file: own}
    root = os.path.dirname(os.path.abspath(compose))
    away = os.path.relpath(folder, root) if folder else ""
    more = f"{name}.swarm.yml" if kind == "swarm" else f"{name}.sidecar.yml"
    both = (os.path.basename(compose), os.path.normpath(os.path.join(away, more)))
    write = render.swarm if kind == "swarm" else render.compose
    return {more: write(service, os.path.normpath(os.path.join(away, file)), both), file: own}


def _write(folder: Path, files: dict[str, str]) -> None:
    from sidecar.cli.attach.compose_file import AttachError

    there = [str(folder / name) for name in files if (folder / name).exists()]
    if there:
        raise AttachError(f"{', '.join(there)}: there already; move it away, or write to another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
            print(f"written: {folder / name}")
    except OSError as error:
        raise AttachError(f"{error.filename}: {error.strerror}") from error
