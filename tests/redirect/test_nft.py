"""nft as a process, with a stand-in that says what the test wants; the real one is in the acceptance tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.redirect import nft
from sidecar.redirect.listeners import users_of
from sidecar.redirect.nft import RedirectError, explained, install, undo
from sidecar.redirect.plan import Outbound, Plan, ruleset

PLAN = Plan(1, Outbound(ports=[(80, 80)], to=15001), None)

#: Keeps the last text it was given as "the table"; a text that only deletes leaves none.
FAKE = """#!/bin/sh
cd "$(dirname "$0")"
case "$*" in
    "-f -") cat >given; if grep -q chain given; then mv given table; else rm -f table; fi;;
    "list tables") if [ -e table ]; then echo "table inet sidecar"; fi;;
    "list table inet sidecar") cat table;;
    "list ruleset") cat others 2>/dev/null; true;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(nft, "_ALSO", "")
    monkeypatch.setattr(nft, "_LEGACY", ())
    program(folder, "nft", FAKE)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_in_and_out_again(programs: Path) -> None:
    assert install(PLAN)
    assert (programs / "table").read_text() == ruleset(PLAN)
    assert not install(PLAN), "it is in place already"
    assert undo()
    assert not undo()
    assert not (programs / "table").exists()


def test_rules_of_others_stop_it(programs: Path) -> None:
    (programs / "others").write_text("table ip a {\n\tchain b {\n\t\ttcp dport 1 redirect to :2\n\t}\n}\n")
    with pytest.raises(RedirectError, match="table ip a, chain b: tcp dport 1 redirect to :2"):
        install(PLAN)
    assert not (programs / "table").exists()


def test_iptables_legacy_is_asked_where_it_has_tables(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = programs / "names"
    monkeypatch.setattr(nft, "_LEGACY", ((str(names), "iptables-legacy"), (str(programs / "none"), "ip6tables-legacy")))
    names.write_text("filter\n")
    assert install(PLAN), "there is nothing that redirects"
    names.write_text("nat\nfilter\n")
    with pytest.raises(RedirectError, match=r"iptables-legacy here \(nat\), and nothing to read them with"):
        install(PLAN)
    program(programs, "iptables-legacy-save", "#!/bin/sh\necho no >&2; exit 3\n")
    with pytest.raises(RedirectError, match="iptables-legacy-save failed: no"):
        install(PLAN)
    program(programs, "iptables-legacy-save", "#!/bin/sh\nprintf '*nat\\n-A OUTPUT -j REDIRECT\\n'\n")
    with pytest.raises(RedirectError, match="iptables-legacy -t nat -A OUTPUT -j REDIRECT"):
        install(PLAN)
    program(programs, "iptables-legacy-save", "#!/bin/sh\nprintf '*nat\\n:OUTPUT ACCEPT\\n'\n")
    assert not install(PLAN)


def test_there_is_no_nft(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "nft").unlink()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(RedirectError, match="install nftables"):
        undo()
    program(programs, "nft", "no program")
    with pytest.raises(RedirectError, match="could not be run"):
        undo()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Operation not permitted (you must be root)\n", "NET_ADMIN"),
        ("netlink: Error: cache initialization failed: Protocol not supported", "this kernel lacks"),
        ("/dev/stdin:3:1: Error: Could not process rule: No such file or directory\n fib", "nft_fib_inet"),
        ("/dev/stdin:3:1: Error: syntax error", "refused the rules: /dev/stdin:3:1"),
        ("", "without a word"),
    ],
)
def test_what_to_do_about_what_nft_says(programs: Path, said: str, told: str) -> None:
    assert told in explained(said)
    (programs / "said").write_text(said)
    program(programs, "nft", f"#!/bin/sh\ncat {programs / 'said'} >&2; exit 1\n")
    with pytest.raises(RedirectError, match=told):
        install(PLAN)


FILE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
"""


def test_who_listens(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(FILE)
    (tmp_path / "tcp6").write_text(FILE.replace("1000", "10001"))
    files = [str(tmp_path / "tcp"), str(tmp_path / "tcp6"), str(tmp_path / "none")]
    assert users_of(8080, files) == {1000, 10001}
    assert users_of(8081, files) == {1001}
    assert users_of(80, files) == set()


def test_the_command(programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("service: {name: a, app: '127.0.0.1:1'}\nredirect: {outbound: {ports: [80]}}\n")
    assert main(["check", str(file)]) == 0
    assert "redirected: outbound: TCP to port 80 → :15001; uid 10001" in capsys.readouterr().out
    assert main(["redirect", str(file), "--dry-run"]) == 0
    assert "tcp dport { 80 } redirect to :15001" in capsys.readouterr().out
    assert not (programs / "table").exists()
    assert main(["redirect", str(file)]) == 0
    assert capsys.readouterr().out.endswith("installed\n")
    assert main(["redirect", str(file)]) == 0
    assert capsys.readouterr().out.endswith("in place already, nothing has changed\n")
    file.unlink()  # what undoes does not need it
    assert main(["redirect", str(file), "--undo"]) == 0
    assert main(["redirect", str(file), "--undo"]) == 0
    assert capsys.readouterr().out == "taken out\nthere are none of our rules here\n"
    file.write_text("service: {name: a}\n")
    assert main(["redirect", str(file)]) == 2
    assert "redirect: is missing" in capsys.readouterr().err
    assert main(["check", str(file)]) == 0
    assert "redirected" not in capsys.readouterr().out


def test_an_app_that_is_the_sidecar_s_user(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sidecar.redirect import listeners

    (tmp_path / "tcp").write_text(FILE)
    monkeypatch.setattr(listeners, "FILES", (str(tmp_path / "tcp"),))
    file = tmp_path / "sidecar.yaml"
    file.write_text("service: {name: a, app: '127.0.0.1:8080'}\nredirect: {uid: 1000, outbound: {ports: [80]}}\n")
    assert main(["redirect", str(file)]) == 1
    assert "runs as user 1000, which is the sidecar's own" in capsys.readouterr().err
    assert not (programs / "table").exists()
