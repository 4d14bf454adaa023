"""Targets for Prometheus' ``file_sd_configs``: where each sidecar's metrics are.

For those whose Prometheus has no Consul discovery, or whose registry is a folder. Labels are those that
``deploy/prometheus/prometheus.yml`` makes of Consul's.
"""

from __future__ import annotations

import json

from sidecar.cli.export.kong import address
from sidecar.cli.export.mesh import Mesh
from sidecar.core.instance import SIDECAR_SUFFIX


def render(mesh: Mesh) -> str:
    """The file: a JSON list with an entry for each sidecar."""
    found = [
        {
            "targets": [address(it)],
            "labels": {"service": it.meta.get("service") or it.id.removesuffix(SIDECAR_SUFFIX), "instance": it.id},
        }
        for it in mesh.sidecars
    ]
    return json.dumps(found, indent=2, sort_keys=True) + "\n"
