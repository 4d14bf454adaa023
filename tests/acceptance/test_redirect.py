"""Transparent interception, in network namespaces of the tests' own: an app that knows nothing of its sidecar."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.netns import Namespace, Server, find, linked, require_netns, said
from support.processes import Process, missing, wait_for

#: The app's user. The sidecar runs as root here, so that any folder will do.
APP = 65534
GET = b"GET /x HTTP/1.1\r\nhost: clock\r\nconnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"
V4, V6 = "10.9.0.2", "fd00:9::2"

CONFIG: dict[str, Any] = {
    "service": {"name": "shop", "app": "127.0.0.1:8080"},
    "inbound": {"bind": "0.0.0.0:10030"},
    "redirect": {"uid": 0, "app_uid": APP, "outbound": {"ports": [53, 80, "7000-7009"]}, "inbound": {}},
    "upstreams": {
        "clock": {
            "bind": "127.0.0.1:9000", "endpoints": [f"{V4}:80"], "redirect": [f"[{V6}]:80"],
            "rate_limit": {"rate": "1/h", "burst": 2},
        },
    },
    "log": {"access": "all"},
}  # fmt: skip


class Redirected(Process):
    """A sidecar in a namespace."""

    def __init__(self, space: Namespace, folder: Path, config: dict[str, Any]) -> None:
        self.space = space
        self.file = folder / "sidecar.yaml"
        self.file.write_text(yaml.safe_dump(config))
        run = space.command(sys.executable, "-m", "sidecar", "run", str(self.file))
        super().__init__([find("ip") or "ip", *run[1:]], folder / "sidecar.log")

    def ready(self) -> Redirected:
        wait_for(lambda: '"ready"' in self.output() or self.popen.poll() is not None, self.output)
        assert self.popen.poll() is None, self.output()
        return self

    def redirect(self, *options: str, code: int = 0) -> str:
        """``sidecar redirect`` there."""
        return self.space.run(sys.executable, "-m", "sidecar", "redirect", str(self.file), *options, code=code)

    def redirected(self) -> dict[str, int]:
        """What became of redirected connections, as the metrics have it."""
        page = said(self.space.dial("127.0.0.1", 15000), b"GET /metrics HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").decode()
        labels = r'direction="(\w+)",upstream="(\w*)",outcome="(\w+)"'
        found = re.findall(rf"sidecar_redirected_total\{{{labels}\}} (\d+)", page)
        return {f"{direction} {name} {outcome}": int(n) for direction, name, outcome, n in found}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines() if '"sidecar.access"' in line]


@pytest.fixture
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    require_netns()
    with linked() as found:
        yield found


def test_an_app_that_knows_nothing(spaces: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = spaces
    clock = Server(there, lambda data: OK, (V4, 80), (V6, 80))
    echo = Server(there, lambda data: b"you said " + data, (V4, 7001), (V6, 7001), (V4, 9999))
    app = Server(here, lambda data: OK, ("0.0.0.0", 8080), ("::", 8080), uid=APP)
    dns = Server(here, lambda data: b"an answer", ("127.0.0.11", 4444))
    # What Docker has in a container's namespace.
    here.run("nft", "-f", "-", text=DOCKER)
    before = here.run("nft", "-s", "list", "ruleset")
    sidecar = Redirected(here, tmp_path, CONFIG)
    try:
        sidecar.ready()
        assert "installed" in sidecar.redirect()
        rules = here.run("nft", "-a", "list", "table", "ip", "nat"), here.run("nft", "-s", "list", "ruleset")
        assert "nothing has changed" in sidecar.redirect()
        assert (here.run("nft", "-a", "list", "table", "ip", "nat"), here.run("nft", "-s", "list", "ruleset")) == rules

        # To an upstream, by its endpoint and by what its list says, with its policies: the third one is too much.
        assert said(here.dial(V4, 80, APP), GET).endswith(b"hi")
        assert said(here.dial(V6, 80, APP), GET).endswith(b"hi")
        assert b"rate_limited" in said(here.dial(V4, 80, APP), GET)
        assert [b"x-request-id: " in it.lower() for it in clock.heard] == [True, True]
        # To nobody's: as TCP, in both families.
        assert said(here.dial(V4, 7001, APP), b"a") == b"you said a"
        assert said(here.dial(V6, 7001, APP), b"b") == b"you said b"
        # Another port is left alone, and so is Docker's DNS, though its port is one of the redirected.
        assert said(here.dial(V4, 9999, APP), b"c") == b"you said c"
        assert said(here.dial("127.0.0.11", 53, APP), b"?") == b"an answer"
        # From elsewhere to the app's port.
        assert said(there.dial("10.9.0.1", 8080), GET).startswith(b"HTTP/1.1 200")
        assert said(there.dial("fd00:9::1", 8080), GET).startswith(b"HTTP/1.1 200")
        assert [b"x-forwarded-for: " in it.lower() for it in app.heard] == [True, True]
        # Who dials a capture port itself is refused, or it would go round.
        for host, port in (("127.0.0.1", 15001), ("::1", 15001), ("10.9.0.1", 15006)):
            with pytest.raises(ConnectionError):
                said(here.dial(host, port, APP), GET)

        # Each of them once: nothing that the sidecar itself dials comes back to it.
        assert sidecar.redirected() == {
            "outbound clock handed": 3, "outbound  passed": 2, "outbound  refused": 2, "inbound shop handed": 2,
            "inbound  refused": 1,
        }  # fmt: skip
        wait_for(lambda: len(sidecar.lines()) == 7, sidecar.output)
        assert sorted(str(it.get("dialled")) for it in sidecar.lines()) == sorted(
            [f"{V4}:80"] * 2 + [f"[{V6}]:80", f"{V4}:7001", f"[{V6}]:7001", "10.9.0.1:8080", "[fd00:9::1]:8080"]
        )

        assert "taken out" in sidecar.redirect("--undo")
        assert here.run("nft", "-s", "list", "ruleset") == before
        assert said(here.dial(V4, 7001, APP), b"d") == b"you said d"
        assert sidecar.redirected()["outbound  passed"] == 2
        assert sidecar.terminate() == 0, sidecar.output()
    finally:
        sidecar.close()
        for it in (clock, echo, app, dns):
            it.close()


MESH = "table ip mesh { chain o { type nat hook output priority 0; tcp dport 80 redirect to :1; }; }"
DOCKER = """
table ip nat {
    chain DOCKER_OUTPUT {
        ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:4444
    }
    chain OUTPUT {
        type nat hook output priority -100; policy accept;
        ip daddr 127.0.0.11 counter jump DOCKER_OUTPUT
    }
}
"""


@pytest.mark.costly
def test_what_is_in_the_way_is_named(spaces: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, _ = spaces
    file = tmp_path / "sidecar.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "sidecar", "redirect", str(file)]

    # The app runs as the sidecar's user.
    app = Server(here, lambda data: OK, ("0.0.0.0", 8080), uid=0)
    assert "runs as user 0, which is the sidecar's own" in here.run(*command, code=1)
    app.close()
    # Rules that somebody has left, of either kind.
    here.run("nft", "-f", "-", text=MESH)
    assert "table ip mesh, chain o: tcp dport 80 redirect to :1" in here.run(*command, code=1)
    here.run("nft", "delete", "table", "ip", "mesh")
    if find("iptables-legacy") is None:
        missing("there is no iptables-legacy here: apt-get install iptables")
    for program in ("iptables-nft", "ip6tables-legacy"):
        rule = "OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001"
        here.run(program, "-t", "nat", "-A", *rule.split())
        found = here.run(*command, code=1)
        assert ("redirect to :15001" if program == "iptables-nft" else f"{program} -t nat -A {rule}") in found
        here.run(program, "-t", "nat", "-D", *rule.split())
    assert "inet sidecar" not in here.run("nft", "-s", "list", "ruleset")
    # Without the capability, and without nft.
    bare = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    assert "NET_ADMIN" in here.run(*bare, *command, code=1)

    # And once nothing is: for as long as it is wanted.
    held = Process([find("ip") or "ip", *here.command(*command, "--hold")[1:]], tmp_path / "hold.log")
    try:
        wait_for(lambda: "installed" in held.output(), held.output)
        assert "redirect to :15001" in here.run("nft", "-s", "list", "ruleset")
        held.popen.send_signal(signal.SIGTERM)
        assert held.popen.wait(20) == 0
        assert "inet sidecar" not in here.run("nft", "-s", "list", "ruleset")
    finally:
        held.close()
