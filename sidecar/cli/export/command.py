"""``sidecar export``: a file for Kong, HAProxy or Prometheus from a route table and the registry."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from typing import Any, Final

_EPILOG: Final = """\
examples:
  sidecar export kong --routes routes.yaml -o kong.yml              instances by Consul's DNS: changes with the services
  sidecar export kong --routes routes.yaml --watch -o kong.yml --push http://127.0.0.1:8001
                                                                    follow the registry, hand each change to Kong
  sidecar export haproxy --routes routes.yaml --targets             addresses in place of DNS names
  sidecar export prometheus --watch -o /etc/prometheus/sidecars.json

routes.yaml:
  routes:
    - {path: /api/v1/tasks, service: task-decomposition, rate_limit: 100/s}
    - {path: /api/ollama, service: ollama, strip: true, stream: true}
A service whose registration has the tag route:/api/v1/things gets that route without a line here.

A file is replaced as a whole, and only when something has changed. The token for Consul is CONSUL_HTTP_TOKEN's.

exit codes: 0 written; 1 the registry cannot be asked, or the file not written; 2 usage, or the table is wrong
"""


def add_parser(commands: Any) -> None:
    """``sidecar export`` and its arguments."""
    export = commands.add_parser(
        "export",
        help="write a gateway's configuration, or Prometheus' targets, from the registry: Kong, HAProxy, Prometheus",
        description="Write what others need to know of the mesh, once or whenever it changes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("kind", metavar="KIND", choices=("kong", "haproxy", "prometheus"),
                        help="kong, haproxy or prometheus")  # fmt: skip
    export.add_argument("--routes", metavar="FILE", default="", help="the route table; kong and haproxy need one")
    export.add_argument(
        "--registry", metavar="URL", default="consul://127.0.0.1:8500",
        help="consul://host:port, directory:///path, or none: only the table (default: consul://127.0.0.1:8500)",
    )  # fmt: skip
    export.add_argument("--datacenter", metavar="NAME", default="", help="Consul's, if it is not that of the agent")
    export.add_argument(
        "--targets", action="store_true", help="write addresses of instances in place of names in Consul's DNS"
    )
    export.add_argument("--watch", action="store_true", help="go on, and write again when something has changed")
    export.add_argument("-o", "--output", metavar="FILE", default="", help="the file (default: standard output)")
    export.add_argument("--push", metavar="URL", default="", help="kong: also hand it to this admin API of Kong's")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from sidecar.cli.export import table
    from sidecar.cli.export.write import Output, export
    from sidecar.config.addresses import RegistryUrl
    from sidecar.config.load import value_of
    from sidecar.core.secret import Secret
    from sidecar.registry import CONSUL, Settings

    if problem := _misused(options):
        print(f"sidecar export: {problem}", file=sys.stderr)
        return 2
    routes = table.read(options.routes) if options.routes else table.TableSettings()
    where = value_of(RegistryUrl(), options.registry, "--registry")
    settings = Settings(
        kind=where.kind,
        address=where.address or CONSUL,
        tls=where.tls,
        path=where.path,
        token=Secret(os.environ.get("CONSUL_HTTP_TOKEN", "")),
        datacenter=options.datacenter,
    )
    targets = options.targets or where.kind == "directory"  # a folder has no DNS
    if options.kind == "haproxy" and not targets and not _is_address(routes.consul_dns):
        print(
            f"sidecar export: HAProxy asks DNS servers by their address, and consul_dns is {routes.consul_dns!r}: give "
            f"it in {options.routes}, as consul_dns: 10.0.0.2:8600, or write instances' addresses with --targets",
            file=sys.stderr,
        )
        return 2
    output = Output(options.output, options.push)
    return export(options.kind, routes, settings, output, targets=targets, watch=options.watch)


def _is_address(dns: str) -> bool:
    try:
        ipaddress.ip_address(dns.rpartition(":")[0])
    except ValueError:
        return False
    return True


def _misused(options: argparse.Namespace) -> str:
    """What is wrong with the arguments; empty if nothing is."""
    if options.kind != "prometheus" and not options.routes:
        return f"{options.kind} needs a route table: --routes FILE; `sidecar export --help` shows one"
    if options.kind == "prometheus" and options.registry == "none":
        return "prometheus' targets come from the registry, so it cannot be none"
    if options.push and options.kind != "kong":
        return "--push is for kong"
    if options.push and not options.push.startswith(("http://", "https://")):
        return f"--push {options.push!r} is not a URL; one looks like http://127.0.0.1:8001"
    if options.targets and options.registry == "none":
        return "--targets needs a registry"
    return ""
