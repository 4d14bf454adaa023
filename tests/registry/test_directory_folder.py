"""The registry folder, with time that goes when told to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sidecar.config.model import Service
from sidecar.registry.directory_folder import LITTER, STALE, Folder
from sidecar.registry.directory_record import MAX_SIZE, encode
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
        service = Service(name="web", id=id, address="10.0.0.1")
        self.folder.write("web", id, encode(service, port, status, ""))
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
    "stolen.json": encode(Service(name="web", id="a", address="10.6.6.6"), 80, "passing", ""),
    "other.json": encode(Service(name="db", id="other", address="10.6.6.6"), 80, "passing", ""),
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


def test_long_stale_files_are_removed_by_anyone(mesh: Mesh) -> None:
    old = mesh.beat("old")
    left = mesh.put(".old.json.77", b"half")
    mesh.folder.write("db", "d", b"{}")
    only = mesh.stamp(mesh.path / "db" / "d.json")
    mesh.pass_time(LITTER + 1)
    fresh = mesh.beat("fresh")
    mesh.folder.tidy()
    assert old.exists()  # once is no proof: a clock may be wrong
    mesh.pass_time(60)
    mesh.folder.tidy()
    assert not old.exists()
    assert not left.exists()
    assert fresh.exists()
    assert not only.parent.exists()


def test_a_living_file_with_a_wrong_time_stamp_is_not_removed(mesh: Mesh) -> None:
    for _ in range(5):
        mesh.beat("a")
        mesh.wall.now += LITTER * 2  # its writer's clock is far behind
        mesh.folder.tidy()
    assert (mesh.path / "web" / "a.json").exists()


def test_odd_names_stay_inside_the_folder(mesh: Mesh) -> None:
    for name in ("..", "../up", "a/b", ".", "x" * 500):
        service = Service(name=name, id=name, address="10.0.0.1")
        mesh.folder.write(name, name, encode(service, 80, "passing", ""))
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
    assert list(deep.iterdir()) == []


def test_the_content_is_readable_json(mesh: Mesh) -> None:
    content = json.loads(mesh.beat("a", port=8080).read_text())
    assert (content["service"], content["id"], content["port"], content["status"]) == ("web", "a", 8080, "passing")
