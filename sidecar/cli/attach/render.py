"""What is added to each platform: a few lines of its own kind of file, as text to be read and kept."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.cli.attach.compose_file import AttachError, Service, addresses, expanded, local, target
from sidecar.cli.attach.config import INBOUND, PROBES, local_ports

#: What the image is called where images/Dockerfile.sidecar is built with that tag.
IMAGE: Final = "sidecar"
#: Where it reads its configuration.
FILE: Final = "/etc/sidecar/sidecar.yaml"
#: The folder in it with a program that apps' images need nothing for, and what an app's hook runs: what comes in
#: finishes before the app is told to end. Else who is answered while the app closes its connections may be cut off.
PROBE: Final = "/opt/sidecar/probe"
DRAIN: Final = f'["{PROBE}/sidecar-probe", "drain"]'
#: Its user, of no privileges.
USER: Final = 10001
#: What Kubernetes takes for the name of a Service, and so of all.
_KUBERNETES: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
#: The end of a short entry of ports.
_BOTH: Final = re.compile(r"(?:^|:)([0-9]{1,5}):([0-9]{1,5})(?:/(tcp|udp))?$")


def compose(service: Service, file: str, both: tuple[str, str]) -> str:
    """An override file: service and sidecar join the network of a pod that does nothing, and so stays. ``file``, the
    configuration, and ``both``, the compose file and this one, as they are called in the folder of the compose file."""
    name = service.name
    published = [_to_inbound(it, service.port) for it in service.published]
    probe = f', "{name}-probe:{PROBE}"' if service.port else ""
    hook = [
        f'    volumes: ["{name}-probe:{PROBE}:ro"]',
        f"    pre_stop: [{{command: {DRAIN}}}] # what comes in finishes before {name} is told to end",
    ]
    lines = [
        f"# {_in_its_folder(both[0])}docker compose {_options('-f', both)} up",
        f"# {name} and its sidecar share the network of {name}-pod, so that each may be restarted alone.",
        "services:",
        f"  {name}-pod:",
        f"    image: {IMAGE}",
        "    entrypoint: [sleep, infinity]",
        "    init: true",
        "    healthcheck: {disable: true} # the image has one, of a sidecar",
        "    restart: unless-stopped",
        *_pods_networks(service),
        *([f"    ports: {_json(published)}"] if published else []),
        f"  {name}:",
        f"    network_mode: service:{name}-pod",
        "    networks: !reset null",
        "    ports: !reset []",
        f"    depends_on: {{{name}-sidecar: {{condition: service_healthy, restart: true}}}} # its ports are bound",
        *(hook if service.port else []),
        *_environment(service, "    "),
        f"  {name}-sidecar:",
        f"    image: {IMAGE}",
        f"    network_mode: service:{name}-pod",
        f"    depends_on: {{{name}-pod: {{condition: service_started, restart: true}}}}",
        "    healthcheck: {interval: 2s} # the image's own, which says nothing of the app",
        f"    volumes: [{_json(f'{_path(file)}:{FILE}:ro')}{probe}]",
        "    read_only: true",
        "    tmpfs: [/tmp]",
        "    cap_drop: [ALL]",
        "    restart: unless-stopped",
        "    stop_grace_period: 40s # longer than drain.timeout",
        *(["volumes:", f"  {name}-probe: # a program of the sidecar's image, for the app's"] if service.port else []),
    ]
    return "\n".join(lines) + "\n"


def _in_its_folder(compose: str) -> str:
    """Where a command is run: paths in the files count from there."""
    return f"in the folder of {compose}: "


def _options(option: str, files: Sequence[str]) -> str:
    return " ".join(f"{option} {shlex.quote(file)}" for file in files)


def _path(file: str) -> str:
    """A path as compose files have it: with a beginning that tells it from a volume's name, and no variables."""
    return (file if file.startswith(("../", "/")) else f"./{file}").replace("$", "$$")


def swarm(service: Service, file: str, both: tuple[str, str]) -> str:
    """A stack's file: Swarm shares no networks, so the sidecar is the entry point of the app's own image. ``file`` and
    ``both`` as in :func:`compose`."""
    if not service.command:
        raise AttachError(
            f"{service.name} has no command in the file: with sidecar exec it has to be said what the app's image runs "
            "(docker inspect shows its entry point and command); write it as command:, and ask again"
        )
    name = service.name
    lines = [
        f"# {_in_its_folder(both[0])}docker stack deploy {_options('-c', both)} mesh",
        f"# The image needs the sidecar in it: COPY --from={IMAGE} /opt/sidecar /opt/sidecar.",
        "services:",
        f"  {name}:",
        f'    entrypoint: ["/opt/sidecar/bin/sidecar", "exec", "{FILE}", "--"]',
        f"    command: {_json(service.command)}",
        f"    configs: [{{source: {name}-sidecar, target: {FILE}}}]",
        "    stop_grace_period: 90s # longer than drain.delay, drain.timeout and drain.app together",
        *([f"    networks: {_json(tuple(service.networks))}"] if service.networks else []),
        *_hosts_ports(service),
        *_environment(service, "    "),
        "    deploy:",
        "      endpoint_mode: dnsrr # the callers' sidecars balance",
        "      update_config: {order: start-first, failure_action: rollback}",
        "configs:",
        f"  {name}-sidecar:",
        f"    file: {_path(file)}",
        "    # Swarm never changes a config: what is new in the file takes a new number here.",
        f"    name: {name}-sidecar-${{SIDECAR_CONFIG_VERSION:-1}}",
    ]
    return "\n".join(lines) + "\n"


def _hosts_ports(service: Service) -> Iterator[str]:
    """The published ports again: with dnsrr Swarm takes them in host mode only, and what came to the app comes to the
    sidecar. An entry of this file takes the place of that with the same published port."""
    if service.published:
        yield "    # One task a host, as the port is the host's, and on all its addresses: a stack knows no other way."
        yield "    # start-first then takes a host that has no task yet."
        yield "    ports:"
    for entry in service.published:
        found = _BOTH.search(expanded(entry))
        if found is None:
            raise AttachError(
                f"{service.name}: with endpoint_mode dnsrr Swarm publishes ports of the host alone: write {entry!r} in "
                "ports as PUBLISHED:TARGET, one entry a port, or leave it out"
            )
        inner = INBOUND if target(entry) == service.port else found[2]
        yield f"      - {{target: {inner}, published: {found[1]}, protocol: {found[3] or 'tcp'}, mode: host}}"


def kubernetes(service: Service, configuration: str) -> dict[str, str]:
    """A ConfigMap, and a patch of a Deployment with a native sidecar container (stable from 1.33, on from 1.29)."""
    name = service.name
    if not _KUBERNETES.fullmatch(name):
        raise AttachError(f"{name}: Kubernetes has names of lower-case letters, digits and - only; rename the service")
    text = "\n".join(f"    {line}".rstrip() for line in configuration.splitlines())
    return {
        f"{name}.configmap.yml": f"""# kubectl apply -f {name}.configmap.yml
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}-sidecar}}
data:
  sidecar.yaml: |
{text}
""",
        f"{name}.patch.yml": _patch(service),
    }


def _patch(service: Service) -> str:
    name = service.name
    inbound = f"{{name: inbound, containerPort: {INBOUND}}}, " if service.port else ""
    env = "".join(
        f"\n            - {{name: {key}, value: {_json(expanded(value))}}}"
        for key, value in _dialled_locally(service).items()
    )
    hook = f"""
          lifecycle: # what comes in finishes before {name} is told to end
            preStop: {{exec: {{command: {DRAIN}}}}}
          volumeMounts: [{{name: sidecar-probe, mountPath: {PROBE}, readOnly: true}}]"""
    own = (f"\n          env:{env}" if env else "") + (hook if service.port else "")
    containers = (
        f"\n      containers:\n        - name: {name} # the app's own container, by its name{own}" if own else ""
    )
    leads = (
        f"\n# The Service of {name} needs `targetPort: inbound` ({INBOUND}) in place of {service.port}: without that, "
        "what comes in passes the\n# sidecar by."
        if service.port
        else ""
    )
    return f"""# kubectl patch deployment {name} --patch-file {name}.patch.yml, or kustomize: patches
# `image: {IMAGE}` has to become a name in a registry that the cluster pulls from: push the image there first.{leads}
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 60 # longer than drain.timeout and the app's own end
      initContainers:{_probe_copied() if service.port else ""}
        - name: sidecar
          image: {IMAGE}
          restartPolicy: Always # a native sidecar: it starts before the app, and stops after it
          args: [run, {FILE}]
          ports: [{inbound}{{name: probes, containerPort: {PROBES}}}]
          startupProbe: {{httpGet: {{path: /ready, port: probes}}, periodSeconds: 1, failureThreshold: 60}}
          readinessProbe: {{httpGet: {{path: /health, port: probes}}, periodSeconds: 5}}
          securityContext:
            runAsNonRoot: true
            runAsUser: {USER}
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
          volumeMounts: [{{name: sidecar, mountPath: /etc/sidecar, readOnly: true}}]{containers}
      volumes:
        - name: sidecar
          configMap: {{name: {name}-sidecar}}{_PROBE_VOLUME if service.port else ""}
"""


_PROBE_VOLUME: Final = "\n        - {name: sidecar-probe, emptyDir: {sizeLimit: 8Mi}}"


def _probe_copied() -> str:
    """An init container that puts the program where the app's container finds it. The image has no other cp."""
    return f"""
        - name: sidecar-probe
          image: {IMAGE}
          command: [/opt/sidecar/bin/python3.11, -ISc, "import shutil; shutil.copy('{PROBE}/sidecar-probe', '/probe')"]
          volumeMounts: [{{name: sidecar-probe, mountPath: /probe}}]
          securityContext:
            runAsNonRoot: true
            runAsUser: {USER}
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}"""


def systemd(service: Service, file: str) -> str:
    """A unit of the sidecar beside the app's own one, on a host."""
    name = service.name
    return f"""# /etc/systemd/system/{name}-sidecar.service; the app's own unit gets
{_apps_unit(service)}
# The sidecar comes from a wheel that `make dist` has made, with Python 3.11 or later:
#   python3 -m venv /opt/sidecar && /opt/sidecar/bin/pip install PATH_OF_THE_WHEEL
# {file} has names of the compose file (as in redis:6379, consul:8500): write what this host can resolve.
[Unit]
Description=Sidecar of {name}
Wants=network-online.target
After=network-online.target

[Service]
# It says itself when it serves, reloads and leaves, and that its event loop turns. From systemd 253 on:
# Type=notify-reload, without ExecReload.
Type=notify
WatchdogSec=30s
ExecStart=/opt/sidecar/bin/sidecar run {file}
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


def _apps_unit(service: Service) -> str:
    """What the app's own unit gets, as a comment."""
    lines = ["[Unit]", f"Wants={service.name}-sidecar.service", f"After={service.name}-sidecar.service"]
    variables = [_assignment(key, expanded(value)) for key, value in _dialled_locally(service).items()]
    hook = ["ExecStop=-/opt/sidecar/bin/sidecar drain"] if service.port else []
    if variables or hook:
        lines += ["[Service]", *variables, *hook]
    text = "\n".join(f"#   {line}" for line in lines)
    return f"{text}\n# The last has what comes in finish before the app is told to end." if hook else text


def _assignment(variable: str, value: str) -> str:
    """A line of systemd.exec(5), whose quotes are C's, and whose % begins a specifier."""
    quoted = f"{variable}={value}".replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'Environment="{quoted}"'


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
