from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sidecar.storage.errors import DiskFullError
from sidecar.storage.reserve import Reserve

MIB = 1 << 20


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_room_is_taken_in_steps_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path)
    reserve.hold(3 * MIB - 5)
    assert reserve.held
    assert path.stat().st_size == 3 * MIB
    assert path.stat().st_blocks * 512 >= 3 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    reserve.hold(MIB)
    assert path.stat().st_size == 3 * MIB
    reserve.hold(5 * MIB)
    assert path.stat().st_size == 5 * MIB
    assert reserve.give_up()
    assert (reserve.held, path.exists()) == (False, False)
    assert not reserve.give_up()


def test_what_an_earlier_process_held_is_taken_over(tmp_path: Path) -> None:
    Reserve(tmp_path / "reserve").hold(6 * MIB)
    reserve = Reserve(tmp_path / "reserve")
    reserve.hold(2 * MIB)
    assert (tmp_path / "reserve").stat().st_size == 2 * MIB


def test_a_full_disk_gets_back_what_was_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.hold(MIB)
    monkeypatch.setattr(os, "posix_fallocate", full)
    reserve.hold(MIB)
    with pytest.raises(DiskFullError, match="the disk is full"):
        reserve.hold(2 * MIB)
    assert not reserve.held
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_deleted_is_held_no_more(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.hold(MIB)
    reserve.check()
    assert reserve.held
    (tmp_path / "reserve").unlink()
    reserve.check()
    assert not reserve.held


def test_where_room_cannot_be_set_aside_nobody_is_kept_from_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    reserve = Reserve(tmp_path / "reserve")
    reserve.hold(MIB)
    assert reserve.held


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reserve(tmp_path / "none" / "reserve").hold(MIB)
