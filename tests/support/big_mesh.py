"""What ``GET /mesh`` of a mesh of 70 services says, for tests of how it is drawn."""

from __future__ import annotations

import random
from typing import Any

#: A name that would like to be markup, and one that objects have anyway.
HOSTILE = ("<img src=x onerror=alert(1)>", "__proto__")


def big_mesh(rate: float = 1.0) -> dict[str, Any]:
    """Gateways call APIs, these call agents, and all call a few stores, one of which fails and one of which is slow."""
    rng = random.Random(7)
    gateways = ["kong", "web", "streamlit"]
    apis = [f"api-{n}" for n in range(10)]
    agents = [f"agent-{n}" for n in range(43)] + list(HOSTILE)
    stores = [
        "ollama",
        "chromadb",
        "qdrant",
        "faiss",
        "postgres",
        "redis",
        "neo4j",
        "rabbitmq",
        "minio",
        "vault",
        "auth",
        "audit",
    ]
    outside = {"postgres", "redis", "neo4j", "rabbitmq", "minio", "vault"}
    pairs = {(it, api) for it in gateways for api in rng.sample(apis, 4)}
    pairs |= {(api, it) for api in apis for it in rng.sample(agents, 6)}
    pairs |= {(it, store) for it in agents for store in rng.sample(stores, 2)} | {(HOSTILE[0], "qdrant")}
    ill = {"qdrant": "unhealthy", "agent-7": "not_answering"}
    services = [
        {
            "name": name,
            "kind": "outside" if name in outside else "service",
            "instances": 0 if name in outside else 2,
            **_figures(rate, 0.3 if name == "qdrant" else 0.0, 1300.0 if name == "faiss" else 40.0),
            "status": "unknown" if name in outside else ill.get(name, "healthy"),
            "problem": "it could not be asked" if name == "agent-7" else "",
            "sidecars": []
            if name in outside
            else [{"id": f"{name}-1", "admin": f"10.0.0.{at}:15000", "status": "healthy", "problem": ""}],
        }
        for at, name in enumerate([*gateways, *apis, *agents, *stores], 2)
    ]
    edges = [
        {
            "from": caller,
            "to": callee,
            "protocol": "http",
            **_figures(rate, 0.3 if callee == "qdrant" else 0.0, 40.0),
            "status": "unhealthy" if callee == "qdrant" else "healthy",
            "problem": "the circuit breaker is open" if callee == "qdrant" else "",
            "silent": False,
        }
        for caller, callee in sorted(pairs)
    ]
    return {"seen_by": "web", "problem": "", "left_out": 0, "services": services, "edges": edges}


def _figures(rate: float, errors: float, p99: float) -> dict[str, float]:
    return {"rate": rate, "error_rate": errors, "p50_ms": 3.0, "p99_ms": p99}
