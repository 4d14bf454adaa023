from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.attach.command import made
from sidecar.cli.attach.compose_file import local, read
from sidecar.cli.main import main
from sidecar.config.load import load
from sidecar.config.schema import Config

COMPOSE = """
services:
  shop:
    image: shop:1
    command: python -m shop
    ports: ["127.0.0.1:8000:8080", "9100:9100", "5353:53/udp"]
    environment:
      REDIS_URL: redis://:pw@redis:6379/0
      BROKER: amqp://rabbitmq//
      MODELS: ${MODELS:-http://ollama:11434}
      DB_HOST: db
      LEVEL: info
    networks: {back: {aliases: [store]}}
    healthcheck: {test: ["CMD", "curl", "-f", "http://localhost:8080/health"]}
    depends_on: [redis, consul, qdrant]
  redis: {image: redis:7}
  rabbitmq: {image: rabbitmq:3}
  ollama: {image: ollama/ollama, ports: [{target: 11434, published: 11434}]}
  ollama-sidecar: {image: sidecar, network_mode: "service:ollama"}
  db: {image: postgres:16, ports: !reset []}
  qdrant: {image: qdrant/qdrant, expose: [6333]}
  consul: {image: hashicorp/consul}
  worker:
    image: worker
    environment: [TASKS=http://shop:8080, OTHER]
    depends_on: {shop: {condition: service_started}}
  joined: {image: x, network_mode: host}
"""


@pytest.fixture
def compose(tmp_path: Path) -> str:
    file = tmp_path / "compose.yml"
    file.write_text(COMPOSE)
    return str(file)


class Tags(yaml.SafeLoader):
    """Reads compose's own tags as what stands behind them."""


Tags.add_constructor("!reset", lambda loader, node: None)


def written(compose: str, service: str, *more: str) -> tuple[dict[str, Any], Config]:
    folder = Path(compose).parent / "out"
    assert main(["attach", compose, service, "-o", str(folder), *more]) == 0
    kind = "swarm" if "--swarm" in more else "sidecar"
    override = yaml.load((folder / f"{service}.{kind}.yml").read_text(), Loader=Tags)
    return override["services"], load(folder / f"{service}.yaml")


def test_what_a_service_listens_on_and_dials(compose: str) -> None:
    services, config = written(compose, "shop")
    assert config.service.name == "shop"
    assert str(config.service.app) == "127.0.0.1:8080"
    assert config.service.check is not None
    assert config.service.check.http == "/health"
    assert config.inbound is not None
    found = {
        name: (str(it.bind), it.protocol, [str(e.address) for e in it.endpoints] or it.discover)
        for name, it in config.upstreams.items()
    }
    assert {name: it[:2] for name, it in found.items()} == {
        "redis": ("127.0.0.1:6379", "tcp"),
        "rabbitmq": ("127.0.0.1:5672", "amqp"),
        "ollama": ("127.0.0.1:11434", "http"),
        "db": ("127.0.0.1:5432", "tcp"),
        "qdrant": ("127.0.0.1:6333", "http"),
    }
    assert found["redis"][2] == ["redis:6379"], "what has no sidecar is in no registry"
    assert config.upstreams["ollama"].discover is not None
    assert services["shop"]["environment"] == {
        "REDIS_URL": "redis://:pw@127.0.0.1:6379/0",
        "BROKER": "amqp://127.0.0.1:5672//",
        "MODELS": "${MODELS:-http://127.0.0.1:11434}",
        "DB_HOST": "127.0.0.1",
    }


def test_both_join_a_pod_that_has_the_ports_and_the_name(compose: str) -> None:
    services, config = written(compose, "shop")
    assert sorted(services) == ["shop", "shop-pod", "shop-sidecar"]
    assert services["shop"]["network_mode"] == services["shop-sidecar"]["network_mode"] == "service:shop-pod"
    assert services["shop-pod"]["ports"] == ["127.0.0.1:8000:10080", "9100:9100", "5353:53/udp"]
    assert services["shop-pod"]["networks"] == {"back": {"aliases": ["shop", "store"]}}
    assert services["shop"]["ports"] is None
    own, probe = services["shop-sidecar"]["volumes"]
    assert own == "./out/shop.yaml:/etc/sidecar/sidecar.yaml:ro", "paths count from the compose file's folder"
    assert services["shop"]["depends_on"] == {"shop-sidecar": {"condition": "service_healthy", "restart": True}}
    assert services["shop"]["volumes"] == [f"{probe}:ro"], "what the hook runs, whatever the app's image has"
    assert services["shop"]["pre_stop"] == [{"command": [f"{probe.partition(':')[2]}/sidecar-probe", "drain"]}]
    assert config.inbound is not None
    assert config.inbound.bind.port == 10080


def test_one_that_serves_nothing(compose: str) -> None:
    services, config = written(compose, "worker", "--registry", "none")
    assert config.service.app is None
    assert config.inbound is None
    assert config.registry.kind == "none"
    assert [str(it.address) for it in config.upstreams["shop"].endpoints] == ["shop:8080"]
    assert services["worker"]["environment"] == {"TASKS": "http://127.0.0.1:8080"}
    assert "ports" not in services["worker-pod"]
    assert "pre_stop" not in services["worker"], "nothing comes in"
    assert "volumes" not in services["worker"]
    assert services["worker-pod"]["networks"] == {"default": {"aliases": ["worker"]}}


def test_what_dials_its_own_port_number(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(
        "services:\n"
        "  a: {image: a, expose: [8080], environment: {B: 'http://b:8080/x', C: 'http://c:8080'}}\n"
        "  b: {image: b, expose: [8080]}\n"
        "  c: {image: c, expose: [8080]}\n"
    )
    services, config = written(str(file), "a")
    ports = {name: it.bind.port for name, it in config.upstreams.items()}
    assert len({8080, *ports.values()}) == 3
    assert services["a"]["environment"] == {
        "B": f"http://127.0.0.1:{ports['b']}/x",
        "C": f"http://127.0.0.1:{ports['c']}",
    }


def test_swarm_has_it_as_the_entry_point(compose: str, capsys: pytest.CaptureFixture[str]) -> None:
    services, _ = written(compose, "shop", "--swarm")
    shop = services["shop"]
    assert shop["entrypoint"][1:] == ["exec", "/etc/sidecar/sidecar.yaml", "--"]
    assert shop["command"] == ["python", "-m", "shop"]
    assert shop["deploy"]["endpoint_mode"] == "dnsrr"
    assert shop["ports"] == [
        {"target": inner, "published": outer, "protocol": protocol, "mode": "host"}
        for outer, inner, protocol in ((8000, 10080, "tcp"), (9100, 9100, "tcp"), (5353, 53, "udp"))
    ], "dnsrr takes none in another mode; what came to the app comes to the sidecar"
    assert main(["attach", compose, "worker", "--swarm"]) == 2
    assert "worker has no command in the file" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["8080", "8000-8001:8080-8081"])
def test_swarm_publishes_single_ports_only(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(f"services: {{a: {{image: a, command: a, ports: ['{port}']}}}}")
    assert main(["attach", str(file), "a", "--swarm"]) == 2
    assert f"write '{port}' in ports as PUBLISHED:TARGET" in capsys.readouterr().err


def test_long_entries_of_ports_keep_their_protocol(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(
        "services: {a: {image: a, ports: [{target: 53, published: 53, protocol: udp}, {target: 80, published: 8000}]}}"
    )
    assert read(str(file), "a").published == ("53:53/udp", "8000:80")
    assert read(str(file), "a").port == 80


def test_kubernetes_has_a_native_sidecar(compose: str, tmp_path: Path) -> None:
    assert main(["attach", compose, "shop", "--kubernetes", "-o", str(tmp_path)]) == 0
    config = yaml.safe_load((tmp_path / "shop.configmap.yml").read_text())
    deployment = yaml.safe_load((tmp_path / "shop.patch.yml").read_text())
    file = tmp_path / "sidecar.yaml"
    file.write_text(config["data"]["sidecar.yaml"])
    assert load(file).service.name == "shop"
    spec = deployment["spec"]["template"]["spec"]
    probe, sidecar = spec["initContainers"]
    assert "restartPolicy" not in probe, "it copies a program, and ends"
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/ready"
    assert {port["name"]: port["containerPort"] for port in sidecar["ports"]} == {"inbound": 10080, "probes": 15020}
    assert sidecar["securityContext"]["runAsNonRoot"] is True
    (app,) = spec["containers"]
    (mount,) = app["volumeMounts"]
    assert app["lifecycle"]["preStop"]["exec"]["command"] == [f"{mount['mountPath']}/sidecar-probe", "drain"]
    assert {mount["name"]} == {it["name"] for it in probe["volumeMounts"]}
    assert mount["name"] in {it["name"] for it in spec["volumes"]}
    assert {"name": "DB_HOST", "value": "127.0.0.1"} in app["env"]
    head = (tmp_path / "shop.patch.yml").read_text().partition("apiVersion")[0]
    assert "The Service of shop needs `targetPort: inbound` (10080) in place of 8080" in head
    assert "`image: sidecar` has to become a name in a registry" in head
    assert {"name": "MODELS", "value": "http://127.0.0.1:11434"} in app["env"], "${…} is Compose's alone"


def test_kubernetes_and_what_serves_nothing_or_has_another_name(
    compose: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attach", compose, "worker", "--kubernetes", "-o", str(tmp_path)]) == 0
    deployment = yaml.safe_load((tmp_path / "worker.patch.yml").read_text())
    (sidecar,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert [port["name"] for port in sidecar["ports"]] == ["probes"]
    (app,) = deployment["spec"]["template"]["spec"]["containers"]
    assert app.keys() == {"name", "env"}, "nothing comes in, so there is no hook"
    file = tmp_path / "compose.yml"
    file.write_text("services: {my_shop: {image: x}}")
    assert main(["attach", str(file), "my_shop", "--kubernetes"]) == 2
    assert "my_shop: Kubernetes has names of lower-case letters" in capsys.readouterr().err


def test_systemd_has_a_unit(compose: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", compose, "shop", "--systemd"]) == 0
    found = capsys.readouterr().out
    assert "ExecStart=/opt/sidecar/bin/sidecar run /etc/sidecar/shop.yaml" in found
    assert "Restart=always" in found
    assert "Type=notify\nWatchdogSec=" in found, "it speaks that protocol"
    assert '#   Environment="REDIS_URL=redis://:pw@127.0.0.1:6379/0"\n' in found, "the app's unit dials the sidecar"
    assert "#   python3 -m venv /opt/sidecar && /opt/sidecar/bin/pip install " in found
    assert "# /etc/sidecar/shop.yaml has names of the compose file" in found


def test_systemd_reads_the_variables_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(
        "services:\n  a: {image: a, environment: {B: 'http://u:50%25\\\"@b:80/x y'}}\n  b: {image: b, expose: [80]}\n"
    )
    assert main(["attach", str(file), "a", "--systemd"]) == 0
    found = capsys.readouterr().out
    assert '#   [Service]\n#   Environment="B=http://u:50%%25\\\\\\"@127.0.0.1:80/x y"\n' in found
    assert "ExecStop" not in found, "nothing comes in"


@pytest.mark.parametrize(
    ("file", "folder", "called", "path"),
    [
        ("compose.yml", "", "-f compose.yml -f shop.sidecar.yml", "./shop.yaml"),
        ("app/docker-compose.yaml", "app", "-f docker-compose.yaml -f shop.sidecar.yml", "./shop.yaml"),
        ("c.yml", "deploy/x", "-f c.yml -f deploy/x/shop.sidecar.yml", "./deploy/x/shop.yaml"),
        ("app/c.yml", "my files", "-f c.yml -f '../my files/shop.sidecar.yml'", "../my files/shop.yaml"),
        ("c.yml", "a$b", "-f c.yml -f 'a$b/shop.sidecar.yml'", "./a$$b/shop.yaml"),
    ],
)
def test_paths_count_from_the_folder_of_the_compose_file(
    file: str, folder: str, called: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / file).write_text(COMPOSE)
    monkeypatch.chdir(tmp_path)
    service = read(file, "shop")
    text = made(file, service, "compose", folder=folder)["shop.sidecar.yml"]
    assert text.startswith(f"# in the folder of {Path(file).name}: docker compose {called} up\n")
    assert f'["{path}:/etc/sidecar/sidecar.yaml:ro", ' in text
    text = made(file, service, "swarm", folder=folder)["shop.swarm.yml"]
    assert f"docker stack deploy {called.replace('-f ', '-c ').replace('.sidecar.', '.swarm.')} mesh\n" in text
    assert f"    file: {path}\n" in text


def said(file: Path, text: str, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    file.write_text(text)
    assert main(["attach", str(file), "a", *more]) == 0
    return capsys.readouterr().err.splitlines()


def test_what_was_guessed_or_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yml"
    registry, port, files = said(file, "services: {a: {image: x, env_file: [e.env, {path: f.env}]}}", capsys)
    assert registry.startswith("sidecar attach: the registry is consul://consul:8500, by default, and c.yml has no ")
    assert port.startswith("sidecar attach: a has neither ports nor expose, so it gets no app and no inbound")
    assert files.startswith("sidecar attach: addresses in env_file (e.env, f.env) are not read")
    (files,) = said(file, "services: {a: {expose: [80], env_file: {path: e}}, consul: {image: x}}", capsys)
    assert "(e)" in files
    asked = ("--registry", "consul://consul:8500")
    assert said(file, "services: {a: {expose: [80]}}", capsys, *asked) == [], "what was asked for is no guess"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("redis", "127.0.0.1"),
        ("redis:6379", "127.0.0.1:7"),
        ("redis://redis", "redis://127.0.0.1:7"),
        ("redis://u:p@redis:6379/1?x=redis", "redis://u:p@127.0.0.1:7/1?x=redis"),
        ("rediss", "rediss"),
        ("my.redis:6379", "my.redis:6379"),
    ],
)
def test_addresses(value: str, found: str) -> None:
    assert local(value, "redis", 7) == found


def test_values_of_other_shapes_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text("services: {a: {image: x, ports: '80:80', networks: 1, environment: 3, depends_on: 4, expose: x}}")
    services, config = written(str(file), "a")
    assert config.inbound is None
    assert "ports" not in services["a-pod"]


@pytest.mark.parametrize(
    ("text", "service", "said"),
    [
        ("services: {a: {image: x}}", "b", "no service is called 'b'. There are: a"),
        ("services: {shop: {image: x}}", "shpo", "Did you mean shop?"),
        ("services: {joined: {network_mode: host}}", "joined", "has a network_mode already (host)"),
        ("services: []", "a", "has no services"),
        ("- a", "a", "has no services"),
        ("a: [", "a", "is no YAML"),
        ("services: {'a/b': {image: x}}", "a/b", "is no name of a service"),
        ('services: {a: {command: "\'"}}', "a", "command: No closing quotation"),
    ],
)
def test_what_cannot_be_attached(
    tmp_path: Path, text: str, service: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(text)
    assert main(["attach", str(file), service]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sidecar attach: ")
    assert said in error


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", str(tmp_path / "none.yml"), "a"]) == 2
    assert "No such file" in capsys.readouterr().err
    large = tmp_path / "large.yml"
    with large.open("wb") as file:
        file.truncate(5 << 20)
    assert main(["attach", str(large), "a"]) == 2
    assert "no compose file" in capsys.readouterr().err


def test_nothing_is_written_over(compose: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["attach", compose, "shop", "-o", str(folder)]) == 0
    (folder / "shop.yaml").write_text("mine")
    assert main(["attach", compose, "shop", "-o", str(folder)]) == 2
    assert "there already" in capsys.readouterr().err
    assert (folder / "shop.yaml").read_text() == "mine"
    assert main(["attach", compose, "shop", "-o", f"{compose}/x"]) == 2


def test_one_that_has_a_sidecar_already() -> None:
    root = Path(__file__).resolve().parents[2]
    with pytest.raises(Exception, match="network_mode already"):
        read(str(root / "compose.sidecars.yml"), "clock")
