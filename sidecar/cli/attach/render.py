"""What is added to each platform: a few lines of its own kind of file, as text to be read and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.cli.attach.compose_file import AttachError, Service, addresses, local, target
from sidecar.cli.attach.config import INBOUND, PROBES, local_ports

#: What the image is called where images/Dockerfile.sidecar is built with that tag.
IMAGE: Final = "sidecar"
#: Where it reads its configuration.
FILE: Final = "/etc/sidecar/sidecar.yaml"
#: Its user, of no privileges.
USER: Final = 10001


def compose(service: Service, file: str) -> str:
    """An override file: service and sidecar join the network of a pod that does nothing, and so stays."""
    name = service.name
    published = [_to_inbound(it, service.port) for it in service.published]
    lines = [
        f"# docker compose -f compose.yml -f {name}.sidecar.yml up",
        f"# {name} and its sidecar share the network of {name}-pod, so that each may be restarted alone.",
        "services:",
        f"  {name}-pod:",
        f"    image: {IMAGE}",
        "    entrypoint: [sleep, infinity]",
        "    init: true",
        "    restart: unless-stopped",
        *_pods_networks(service),
        *([f"    ports: {_json(published)}"] if published else []),
        f"  {name}:",
        f"    network_mode: service:{name}-pod",
        "    networks: !reset null",
        "    ports: !reset []",
        f"    depends_on: {{{name}-sidecar: {{condition: service_started}}}}",
        *_environment(service, "    "),
        f"  {name}-sidecar:",
        f"    image: {IMAGE}",
        f"    network_mode: service:{name}-pod",
        f"    depends_on: {{{name}-pod: {{condition: service_started, restart: true}}}}",
        f'    volumes: ["{file}:{FILE}:ro"]',
        "    read_only: true",
        "    tmpfs: [/tmp]",
        "    cap_drop: [ALL]",
        "    restart: unless-stopped",
        "    stop_grace_period: 40s # longer than drain.timeout",
    ]
    return "\n".join(lines) + "\n"


def swarm(service: Service, file: str) -> str:
    """A stack's file: Swarm shares no networks, so the sidecar is the entry point of the app's own image."""
    if not service.command:
        raise AttachError(
            f"{service.name} has no command in the file: with sidecar exec it has to be said what the app's image runs "
            "(docker inspect shows its entry point and command); write it as command:, and ask again"
        )
    name = service.name
    networks = f"    networks: {_json(tuple(service.networks))}\n" if service.networks else ""
    environment = "\n".join(_environment(service, "    "))
    return f"""# docker stack deploy -c compose.yml -c {name}.sidecar.yml mesh
# The image needs the sidecar in it: COPY --from={IMAGE} /opt/sidecar /opt/sidecar (the same Python as there).
services:
  {name}:
    entrypoint: ["/opt/sidecar/bin/sidecar", "exec", "{FILE}", "--"]
    command: {_json(service.command)}
    configs: [{{source: {name}-sidecar, target: {FILE}}}]
    stop_grace_period: 60s # drain, then the app's own end
{networks}{environment + chr(10) if environment else ""}    deploy:
      endpoint_mode: dnsrr # the callers' sidecars balance
      update_config: {{order: start-first, failure_action: rollback}}
configs:
  {name}-sidecar: {{file: {file}}}
"""


def kubernetes(service: Service, configuration: str) -> str:
    """A patch of a Deployment, with a native sidecar container (stable from 1.33, on from 1.29), and its ConfigMap."""
    name = service.name
    text = "\n".join(f"    {line}".rstrip() for line in configuration.splitlines())
    env = "".join(
        f"\n            - {{name: {key}, value: {_json(value)}}}" for key, value in _dialled_locally(service).items()
    )
    environment = (
        f"""
      containers:
        - name: {name}
          env:{env}"""
        if env
        else ""
    )
    return f"""# kubectl apply -f - for the ConfigMap; the Deployment's part is a patch (kustomize: patches).
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}-sidecar}}
data:
  sidecar.yaml: |
{text}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 60 # longer than drain.timeout and the app's own end
      initContainers:
        - name: sidecar
          image: {IMAGE}
          restartPolicy: Always # a native sidecar: it starts before the app, and stops after it
          args: [run, {FILE}]
          ports: [{{name: inbound, containerPort: {INBOUND}}}, {{name: probes, containerPort: {PROBES}}}]
          startupProbe: {{httpGet: {{path: /ready, port: probes}}, periodSeconds: 1, failureThreshold: 60}}
          readinessProbe: {{httpGet: {{path: /health, port: probes}}, periodSeconds: 5}}
          securityContext:
            runAsNonRoot: true
            runAsUser: {USER}
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
          volumeMounts: [{{name: sidecar, mountPath: /etc/sidecar, readOnly: true}}]{environment}
      volumes:
        - name: sidecar
          configMap: {{name: {name}-sidecar}}
"""


def systemd(service: Service, file: str) -> str:
    """A unit of the sidecar beside the app's own one, on a host."""
    name = service.name
    return f"""# /etc/systemd/system/{name}-sidecar.service; the app's own unit gets
#   [Unit]
#   Wants={name}-sidecar.service
#   After={name}-sidecar.service
[Unit]
Description=Sidecar of {name}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/opt/sidecar/bin/sidecar run {file}
ExecStartPost=/opt/sidecar/bin/sidecar wait --timeout 30s
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1s
# longer than drain.timeout
TimeoutStopSec=60s
DynamicUser=yes
StateDirectory={name}-sidecar
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
CapabilityBoundingSet=
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def _pods_networks(service: Service) -> Iterator[str]:
    """The pod has the service's networks, and its names there."""
    yield "    networks:"
    for network, aliases in (service.networks or {"default": ()}).items():
        yield f"      {network}: {{aliases: {_json((service.name, *aliases))}}}"


def _to_inbound(published: str, port: int) -> str:
    """A published port that led to the app leads to the sidecar; another one of the app's stays its own."""
    if target(published) != port:
        return published
    head, colon, _ = published.rpartition(":")
    return f"{head}{colon}{INBOUND}" if colon else str(INBOUND)


def _environment(service: Service, indent: str) -> Iterator[str]:
    found = _dialled_locally(service)
    if found:
        yield f"{indent}environment:"
        for name, value in found.items():
            yield f"{indent}  {name}: {_json(value)}"


def _dialled_locally(service: Service) -> dict[str, str]:
    """The variables that name a service, with the port that the app dials instead."""
    ports = local_ports(service)
    return {
        variable: local(service.environment[variable], name, ports[name])
        for variable, name, _ in addresses(service.environment, ports)
    }


def _json(value: str | Sequence[str]) -> str:
    """As JSON, which is YAML, too."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)
