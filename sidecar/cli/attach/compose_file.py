"""Reads of a compose file what a sidecar has to know of one service: where it listens, and what it dials.

The file is the user's own, but is read with care all the same: in what shape a key stands, only the file says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.config.errors import nearest

#: Bytes of a compose file that are read.
MAX_BYTES: Final = 4 << 20
#: What is spoken on well-known ports, by the port that servers have by default.
PROTOCOLS: Final = {
    5672: "amqp", 6379: "tcp", 5432: "tcp", 3306: "tcp", 27017: "tcp", 7687: "tcp", 6334: "tcp", 9092: "tcp",
    4222: "tcp", 11211: "tcp", 25: "tcp", 587: "tcp", 1433: "tcp",
}  # fmt: skip
#: The port of an address that names none, by its scheme.
_SCHEMES: Final = {
    "http": 80, "https": 443, "redis": 6379, "amqp": 5672, "pyamqp": 5672, "postgres": 5432, "postgresql": 5432,
    "mysql": 3306, "bolt": 7687, "neo4j": 7687, "mongodb": 27017, "nats": 4222,
}  # fmt: skip
#: The port of an image that says nothing of itself in the file, by a part of its name.
_IMAGES: Final = (
    ("rabbitmq", 5672), ("redis", 6379), ("valkey", 6379), ("postgres", 5432), ("mysql", 3306), ("mariadb", 3306),
    ("neo4j", 7687), ("qdrant", 6333), ("chroma", 8000), ("ollama", 11434), ("mongo", 27017), ("consul", 8500),
)  # fmt: skip
_ADDRESS: Final = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^@/\s]*@)?)?(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]*)(?::(?P<port>[0-9]{1,5}))?"
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^}]*)\}")


class AttachError(Exception):
    """A sidecar cannot be attached to that; the text says why and what to do, in a line."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service that is dialled, on the ``port`` that its container has. ``spoken``: http, tcp or amqp. ``attached``:
    it has a sidecar in the file, so that the registry knows it."""

    service: str
    port: int
    spoken: str
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the file. ``port`` is its app's own (0: it serves nothing); ``published`` are the entries of its
    ports; ``environment`` its variables, without those of its ``env_files``; ``networks`` those that it is in, and its
    other names there; ``others`` the names of the file's other services."""

    name: str
    port: int
    published: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    image: str = ""
    health: str = ""
    dependencies: tuple[Dependency, ...] = ()
    env_files: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read(path: str, name: str) -> Service:
    """The service of that name. Raises :class:`AttachError`."""
    services = _services(path)
    if name not in services:
        meant = nearest(name, list(services))
        hint = f" Did you mean {meant}?" if meant else ""
        raise AttachError(f"{path}: no service is called {name!r}.{hint} There are: {', '.join(services) or 'none'}")
    if not _NAME.fullmatch(name):
        raise AttachError(f"{path}: {name!r} is no name of a service: letters, digits, ., _ and - are allowed")
    section = services[name]
    if section.get("network_mode"):
        raise AttachError(
            f"{path}: {name} has a network_mode already ({section['network_mode']}): nothing can be shared"
        )
    environment = dict(_environment(section.get("environment")))
    return Service(
        name,
        _port(section),
        tuple(_published(section)),
        environment,
        dict(_networks(section.get("networks"))),
        tuple(_words(section.get("command"))),
        str(section.get("image") or ""),
        _health(section),
        tuple(_dependencies(name, section, services, environment)),
        tuple(_env_files(section.get("env_file"))),
        tuple(other for other in services if other != name),
    )


def _services(path: str) -> dict[str, dict[str, Any]]:
    import yaml

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AttachError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise AttachError(f"{path}: is larger than {MAX_BYTES >> 20} MiB: no compose file")
    try:
        found = yaml.load(data, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AttachError(f"{path}: is no YAML: {' '.join(str(error).split())[:200]}") from error
    services = found.get("services") if isinstance(found, dict) else None
    if not isinstance(services, dict):
        raise AttachError(f"{path}: has no services: it should be a compose file")
    return {str(name): section for name, section in services.items() if isinstance(section, dict)}


def _loader() -> type:
    """One that takes compose's own tags (``!reset``, ``!override``) for what stands behind them."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def plain(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!", plain)
    return Loader


def _environment(found: Any) -> Iterator[tuple[str, str]]:
    """Both shapes: a mapping, or a list of NAME=VALUE."""
    if isinstance(found, dict):
        yield from ((str(name), "" if value is None else str(value)) for name, value in found.items())
    elif isinstance(found, list):
        for entry in found:
            name, _, value = str(entry).partition("=")
            yield name, value


def _env_files(found: Any) -> Iterator[str]:
    """All shapes: a path, or a list of paths and of mappings with one."""
    for entry in [found] if isinstance(found, (str, dict)) else _list(found):
        yield str(entry.get("path", "")) if isinstance(entry, dict) else str(entry)


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _names(found: Any) -> Iterator[str]:
    if isinstance(found, (dict, list)):
        yield from (str(name) for name in found)


def _networks(found: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in _names(found):
        more = found[name] if isinstance(found, dict) else None
        yield name, tuple(_names(more.get("aliases"))) if isinstance(more, dict) else ()


def _words(found: Any) -> Iterator[str]:
    if isinstance(found, list):
        yield from (str(word) for word in found)
    elif isinstance(found, str):
        import shlex

        try:
            yield from shlex.split(found)
        except ValueError as error:
            raise AttachError(f"command: {error}") from error


def _published(section: Mapping[str, Any]) -> Iterator[str]:
    """The entries of ``ports`` in their short form."""
    for entry in _list(section.get("ports")):
        if isinstance(entry, dict):
            where = ":".join(str(entry[key]) for key in ("host_ip", "published") if entry.get(key))
            inner = str(entry.get("target", "")) + ("/udp" if entry.get("protocol") == "udp" else "")
            yield f"{where}:{inner}" if where else inner
        else:
            yield str(entry)


def expanded(value: str) -> str:
    """A value with the defaults of its variables in their place: Compose's own syntax is only known to Compose."""
    return _VARIABLE.sub(r"\1", value)


def target(published: str) -> int:
    """The port in the container that a short entry of ``ports`` leads to, of a range the first; 0: none over TCP."""
    found = re.search(r"([0-9]{1,5})(?:-[0-9]+)?(?:/tcp)?$", expanded(published))
    return int(found[1]) if found and int(found[1]) < 65536 else 0


def _port(section: Mapping[str, Any]) -> int:
    """Where the app listens: of what it publishes or exposes, the first; else as its image has it; 0: nowhere."""
    for entry in (*_published(section), *(str(it) for it in _list(section.get("expose")))):
        if port := target(entry):
            return port
    image = str(section.get("image") or "").rpartition("/")[2]
    return next((port for part, port in _IMAGES if part in image), 0)


def _health(section: Mapping[str, Any]) -> str:
    """The path that the service's own health check asks for over HTTP, if it does; empty: it does not."""
    check = section.get("healthcheck")
    test = check.get("test") if isinstance(check, dict) else None
    text = " ".join(str(it) for it in test) if isinstance(test, list) else str(test or "")
    found = re.search(r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?(/[^\s'\"|&;)]*)", text)
    return found[1] if found else ""


def _dependencies(
    name: str, section: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str]
) -> Iterator[Dependency]:
    """What the environment has addresses of, then what else it depends on."""
    seen: set[str] = set()
    for _, service, port in addresses(environment, services):
        if service != name and service not in seen:
            port = port or _port(services[service])
            if port:
                seen.add(service)
                yield Dependency(service, port, spoken(port), f"{service}-sidecar" in services)
    for service in _names(section.get("depends_on")):
        port = _port(services.get(service, {}))
        if (
            service not in seen
            and port
            and service not in ("consul", name)
            and not service.endswith(("-pod", "-sidecar"))
        ):
            seen.add(service)
            yield Dependency(service, port, spoken(port), f"{service}-sidecar" in services)


def addresses(environment: Mapping[str, str], services: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Variables whose value is the address of a service: their name, the service, its port (0: it is not said)."""
    for variable, value in environment.items():
        found = _ADDRESS.match(expanded(value.strip()))
        if found and found["host"] in services and found["host"] != "consul":
            yield variable, found["host"], int(found["port"] or _SCHEMES.get(found["scheme"] or "", 0))


def spoken(port: int) -> str:
    """The protocol of a server with that port."""
    return PROTOCOLS.get(port, "http")


def local(value: str, service: str, port: int) -> str:
    """An address with 127.0.0.1 in place of the service, and that port: what the app dials from now on. A bare name
    stays without a port, which the app has from elsewhere."""
    found = re.search(rf"(^|//|@){re.escape(service)}(:[0-9]{{1,5}})?(?=$|[/?,}}\s])", value)
    if found is None:
        return value
    bare = not found[1] and not found[2]
    return f"{value[: found.start()]}{found[1]}127.0.0.1{'' if bare else f':{port}'}{value[found.end() :]}"
