"""The registry folder, with time that goes when told to."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.registry import Workload
from sidecar.registry.directory_folder import LITTER, STALE, Folder
from sidecar.registry.directory_record import MAX_SIZE, encode
from sidecar.registry.directory_root import MARKER
from sidecar.registry.errors import RegistryError
from support.clock import Clock


class Mesh:
    """A folder and its two clocks; files get the wall clock's time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock, self.wall = Clock(1000.0), Clock(1_700_000_000.0)
        self.folder = self.reader()

    def reader(self) -> Folder:
        return Folder(self.path, clock=self.clock, wall=self.wall)

    def beat(self, id: str, port: int = 80, status: str = "passing") -> Path:
        service = Workload(name="web", id=id, address="10.0.0.1", port=port)
        self.folder.write("web", id, encode(service, status, ""))
        return self.stamp(self.path / "web" / f"{id}.json")

    def stamp(self, file: Path) -> Path:
        os.utime(file, (self.wall.now, self.wall.now))
        return file

    def put(self, name: str, content: bytes) -> Path:
        (self.path / "web").mkdir(exist_ok=True)
        file = self.path / "web" / name
        file.write_bytes(content)
        return self.stamp(file)

    def ids(self, folder: Folder | None = None) -> list[str]:
        return [instance.id for instance in (folder or self.folder).read("web")]

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def test_instances_come_and_go(mesh: Mesh) -> None:
    assert mesh.ids() == []
    mesh.beat("b")
    mesh.beat("a")
    assert mesh.ids() == ["a", "b"]
    mesh.folder.remove("web", "a")
    assert mesh.ids() == ["b"]
    mesh.folder.remove("web", "b")
    mesh.folder.remove("web", "b")
    assert mesh.ids() == []
    assert list(mesh.path.iterdir()) == []  # nothing is left behind


def test_critical_ones_are_not_handed_out_and_changes_are_seen(mesh: Mesh) -> None:
    mesh.beat("a", status="critical")
    assert mesh.ids() == []
    mesh.pass_time(0.1)
    mesh.beat("a", status="warning")
    assert [instance.state for instance in mesh.folder.read("web")] == ["warning"]


def test_three_heartbeats_missed_is_gone_and_one_more_is_back(mesh: Mesh) -> None:
    mesh.beat("a")
    assert mesh.ids() == ["a"]
    mesh.pass_time(STALE - 0.1)
    assert mesh.ids() == ["a"]
    mesh.pass_time(0.2)
    assert mesh.ids() == []
    mesh.beat("a")
    assert mesh.ids() == ["a"]


def test_a_file_left_by_somebody_dead_is_stale_at_first_sight(mesh: Mesh) -> None:
    mesh.beat("a")
    mesh.pass_time(STALE + 1)
    assert mesh.ids(mesh.reader()) == []


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_wall_clock_that_jumps_loses_nobody(mesh: Mesh, jump: float) -> None:
    mesh.beat("a")
    assert mesh.ids() == ["a"]
    mesh.wall.now += jump
    assert mesh.ids() == ["a"]
    mesh.pass_time(2)
    mesh.beat("a")
    assert mesh.ids() == ["a"]
    # A file stamped in the future by a wrong clock does not stay for ever.
    mesh.wall.now -= 2 * jump
    reader = mesh.reader()
    mesh.ids(reader)
    mesh.pass_time(STALE)
    assert mesh.ids(reader) == []


HOSTILE = {
    "empty.json": b"",
    "text.json": b"hello",
    "deep.json": b"[" * 60000,
    "binary.json": bytes(range(256)),
    "large.json": b" " * (MAX_SIZE + 1),
    "list.json": b"[]",
    # somebody else's name
    "stolen.json": encode(Workload(name="web", id="a", address="10.6.6.6", port=80), "passing", ""),
    "other.json": encode(Workload(name="db", id="other", address="10.6.6.6", port=80), "passing", ""),
}


def test_hostile_files_are_skipped_with_one_line_each(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.beat("a")
    for name, content in HOSTILE.items():
        mesh.put(name, content)
    folder = mesh.path / "web"
    secret = mesh.path / "secret"
    secret.write_bytes((folder / "a.json").read_bytes())
    (folder / "link.json").symlink_to(secret)
    (folder / "dir.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / ".hidden.json").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    for _ in range(3):
        assert mesh.ids() == ["a"]
        mesh.pass_time(0.5)
        for name, content in HOSTILE.items():
            mesh.put(name, content + b" ")
        mesh.beat("a")
    assert len(caplog.records) == len(HOSTILE) + 3


def test_a_file_half_written_by_a_crash_is_never_read(mesh: Mesh) -> None:
    mesh.beat("a")
    mesh.put(".a.json.77", b'{"service": "we')
    assert mesh.ids() == ["a"]


def test_writing_does_not_follow_a_link_that_was_put_there(mesh: Mesh) -> None:
    victim = mesh.path / "victim"
    victim.write_text("precious")
    (mesh.path / "web").mkdir()
    (mesh.path / "web" / f".a.json.{os.getpid()}").symlink_to(victim)
    mesh.beat("a")
    assert victim.read_text() == "precious"
    assert mesh.ids() == ["a"]


def test_long_stale_files_are_removed_by_anyone(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.registry")
    old = mesh.beat("old")
    left = mesh.put(".old.json.77", b'{"service":"we')
    empty = mesh.put(".new.json.0123456789abcdef", b"")
    mesh.folder.write("db", "d", encode(Workload(name="db", id="d", address="10.0.0.1", port=80), "passing", ""))
    only = mesh.stamp(mesh.path / "db" / "d.json")
    mesh.pass_time(LITTER + 1)
    fresh = mesh.beat("fresh")
    mesh.folder.tidy()
    assert old.exists()  # once is no proof: a clock may be wrong
    mesh.pass_time(60)
    mesh.folder.tidy()
    assert not old.exists()
    assert not left.exists()
    assert not empty.exists()
    assert fresh.exists()
    assert not only.parent.exists()
    removed = [record.getMessage() for record in caplog.records]
    assert len(removed) == 5
    for name in ("web/old.json", "web/.old.json.77", "web/.new.json.0123456789abcdef", "db/d.json", "folder of db"):
        assert any(f"removed {name}" in line or f"the {name}" in line for line in removed), name


def test_a_living_file_with_a_wrong_time_stamp_is_not_removed(mesh: Mesh) -> None:
    for _ in range(5):
        mesh.beat("a")
        mesh.wall.now += LITTER * 2  # its writer's clock is far behind
        mesh.folder.tidy()
    assert (mesh.path / "web" / "a.json").exists()


def snapshot(path: Path) -> dict[str, bytes | str]:
    """Everything below a folder, links not followed."""
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder) / name
            key = str(entry.relative_to(path))
            if entry.is_symlink():
                found[key] = f"-> {entry.readlink()}"
            else:
                found[key] = "special" if not entry.is_file() else entry.read_bytes()
    return found


def test_what_is_not_the_registrys_is_never_touched(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> None:
    """However old it is, wherever it is, whatever leads to it."""
    mesh.beat("a")
    outside = tmp_path_factory.mktemp("outside")
    record = encode(Workload(name="web", id="lost", address="10.0.0.1", port=80), "passing", "")
    (outside / "thesis.txt").write_text("precious")
    (outside / "lost.json").write_bytes(record)
    (mesh.path / "top.json").write_bytes(record)
    (mesh.path / "link").symlink_to(outside)
    (mesh.path / "docs").mkdir()
    (mesh.path / "docs" / "thesis.txt").write_text("precious")
    (mesh.path / "docs" / "package.json").write_text('{"name": "docs"}')
    (mesh.path / "docs" / "lost.json").write_bytes(record)  # a record, but of another folder
    (mesh.path / "docs" / "deep" / "deeper").mkdir(parents=True)
    (mesh.path / "docs" / "deep" / "lost.json").write_bytes(record)
    (mesh.path / "web" / "notes.txt").write_text("precious")
    (mesh.path / "web" / "other.json").write_bytes(record)  # a record, but of another name
    (mesh.path / "web" / ".swap.json.1").write_text("precious")  # called like one of ours
    (mesh.path / "web" / "large.json").write_bytes(record + b" " * MAX_SIZE)
    (mesh.path / "web" / "lost.json").symlink_to(outside / "lost.json")
    os.mkfifo(mesh.path / "web" / "pipe.json")
    os.mkfifo(mesh.path / "pipe")
    (mesh.path / "empty").mkdir()
    for folder in (mesh.path, outside):
        for path in folder.rglob("*"):
            os.utime(path, (mesh.wall.now, mesh.wall.now), follow_symlinks=False)
    before, before_outside = snapshot(mesh.path), snapshot(outside)
    mesh.pass_time(LITTER * 2)
    mesh.beat("a")
    for _ in range(4):
        mesh.folder.tidy()
        mesh.folder.read("web")
        with pytest.raises(NotADirectoryError):
            mesh.folder.read("link")
        mesh.pass_time(60)
    assert snapshot(mesh.path) == before
    assert snapshot(outside) == before_outside


def test_a_services_folder_that_is_a_link_is_neither_read_nor_written_nor_removed(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    outside.chmod(0o700)
    mesh.path.chmod(0o777)
    (mesh.path / "web").symlink_to(outside)
    service = Workload(name="web", id="a", address="10.0.0.1", port=80)
    (outside / "a.json").write_bytes(encode(service, "passing", ""))
    mesh.stamp(outside / "a.json")
    with pytest.raises(NotADirectoryError):
        mesh.folder.write("web", "a", b"{}")
    with pytest.raises(NotADirectoryError):
        mesh.folder.read("web")
    with pytest.raises(NotADirectoryError):
        mesh.folder.remove("web", "a")
    assert (outside / "a.json").exists()
    assert outside.stat().st_mode & 0o777 == 0o700


def checkout(path: Path) -> None:
    (path / ".git" / "objects").mkdir(parents=True)
    (path / "src").mkdir()


def home(path: Path) -> None:
    (path / ".profile").write_text("")


def homes(path: Path) -> None:
    (path / "alice").mkdir()
    (path / "alice" / "thesis.txt").write_text("")


def linked(path: Path) -> None:
    (path / "bin").symlink_to("usr/bin")


def file_beside_services(path: Path) -> None:
    (path / "web").mkdir()
    (path / "web" / "a.json").write_text("{}")
    (path / "thesis.txt").write_text("")


def odd_folder(path: Path) -> None:
    (path / "My Documents").mkdir()


@pytest.mark.parametrize("fill", [checkout, home, homes, linked, file_beside_services, odd_folder])
def test_a_folder_that_is_something_else_is_refused_untouched(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    fill(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(
        RegistryError, match=r"is not a registry of sidecars: there is .*create the empty file"
    ) as error:
        Folder(tmp_path).prepare()
    assert str(tmp_path / MARKER) in str(error.value)
    assert snapshot(tmp_path) == before
    (tmp_path / MARKER).touch()
    Folder(tmp_path).prepare()  # whoever says so is believed
    assert snapshot(tmp_path) == before | {MARKER: b""}


@pytest.mark.parametrize("path", ["/", "/etc", "/usr", "/proc"])
def test_the_systems_folders_are_refused(path: str) -> None:
    with pytest.raises(RegistryError):
        Folder(Path(path)).prepare()


def test_a_registry_of_before_the_marker_gets_one_and_so_does_a_fresh_volume(mesh: Mesh) -> None:
    mesh.beat("a")
    mesh.put("evil.json", b"not ours")  # a neighbour's mischief keeps nobody from starting
    mesh.put("notes.txt", b"x")
    (mesh.path / "db").mkdir()
    (mesh.path / "lost+found").mkdir()
    Folder(mesh.path).prepare()
    assert (mesh.path / MARKER).exists()
    (mesh.path / "README").write_text("what is put there later does not matter")
    Folder(mesh.path).prepare()
    assert mesh.ids() == ["a"]


def test_the_path_itself_may_lead_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    Folder(tmp_path / "link" / "mesh").prepare()
    assert (tmp_path / "real" / "mesh" / MARKER).exists()


def test_so_many_and_so_large_files_are_read_and_no_more(
    mesh: Mesh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.beat("a")
    monkeypatch.setattr("sidecar.registry.directory_folder.MAX_BYTES", 2000)
    monkeypatch.setattr("sidecar.registry.directory_folder.MAX_INSTANCES", 20)
    for n in range(40):
        mesh.beat(f"many-{n:02}")
    assert 5 < len(mesh.ids()) < 20
    monkeypatch.setattr("sidecar.registry.directory_folder.MAX_BYTES", 3_000_000)
    assert len(mesh.ids(mesh.reader())) == 20
    for n in range(200):
        mesh.put(f"bad-{n}.json", b"x")
        mesh.folder.read("web")
        (mesh.path / "web" / f"bad-{n}.json").unlink()
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) <= 64


def test_odd_names_stay_inside_the_folder(mesh: Mesh) -> None:
    for name in ("..", "../up", "a/b", ".", "x" * 500):
        service = Workload(name=name, id=name, address="10.0.0.1", port=80)
        mesh.folder.write(name, name, encode(service, "passing", ""))
        for file in mesh.path.rglob("*.json"):
            mesh.stamp(file)
        assert [instance.id for instance in mesh.folder.read(name)] == [name]
        mesh.folder.remove(name, name)
    assert list(mesh.path.iterdir()) == []
    assert not (mesh.path.parent / "up").exists()


def test_a_service_folder_is_as_open_as_the_registry(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    mesh = Mesh(tmp_path)
    mesh.beat("a")
    assert (tmp_path / "web").stat().st_mode & 0o7777 == 0o1777


def test_a_registry_that_is_gone_is_an_error_and_not_an_empty_set(mesh: Mesh) -> None:
    with pytest.raises(OSError, match="gone"):
        Folder(mesh.path / "gone").read("web")


def test_a_folder_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RegistryError, match="cannot be used"):
        Folder(file).prepare()
    with pytest.raises(RegistryError, match=str(file / "mesh")):
        Folder(file / "mesh").prepare()
    deep = tmp_path / "a" / "b"
    Folder(deep).prepare()
    assert [entry.name for entry in deep.iterdir()] == [MARKER]


def test_the_content_is_readable_json(mesh: Mesh) -> None:
    content = json.loads(mesh.beat("a", port=8080).read_text())
    assert (content["service"], content["id"], content["port"], content["status"]) == ("web", "a", 8080, "passing")


def test_services_have_the_tags_of_all_their_instances(mesh: Mesh) -> None:
    assert mesh.folder.services() == {}
    for id, tags in (("web-1", ("a", "b")), ("web-2", ("c",))):
        service = Workload(name="web", id=id, address="10.0.0.1", port=80, tags=tags)
        mesh.folder.write("web", id, encode(service, "critical", ""))
    mesh.put("broken.json", b"{}")
    mesh.folder.write("a.b", "1", encode(Workload(name="a.b", id="1", address="10.0.0.1", port=80), "passing", ""))
    assert mesh.folder.services() == {"web": {"a", "b", "c"}, "a.b": frozenset()}
