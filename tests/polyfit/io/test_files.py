"""Files are written whole or not at all."""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Never

import pytest

from polyfit.io.files import check_writable, replacing


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file in the folder, hidden files included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- check_writable ---


def test_checking_a_place_that_can_be_written_leaves_no_trace(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"old")
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "old")
    assert contents(tmp_path) == {"old": b"old"}


def test_a_bare_name_is_checked_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("new"))
    (tmp_path / "gone").mkdir()
    with pytest.raises(IsADirectoryError, match="gone is a folder; name a file in it"):
        check_writable(Path("gone"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent; create it first"):
        check_writable(tmp_path / "absent" / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*file; create it first"):
        check_writable(tmp_path / "file" / "new")
    assert contents(tmp_path) == {"file": b""}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Permission bits do not stop root, who may run the tests.
    def refuse(**_: object) -> Never:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        PermissionError, match=f"{os.strerror(errno.EROFS)} in .*; name a file in another folder"
    ) as caught:
        check_writable(tmp_path / "new")
    assert str(caught.value).startswith(f"{tmp_path / 'new'} cannot be written")


# --- replacing ---


@pytest.mark.parametrize("before", [None, b"old"])
def test_the_file_changes_only_once_all_is_written(tmp_path: Path, before):
    path = tmp_path / "data.json"
    if before is not None:
        path.write_bytes(before)
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert (path.read_bytes() if path.exists() else None) == before
    assert contents(tmp_path) == {"data.json": b"new"}


def test_the_part_can_take_the_place_of_the_file_at_once(tmp_path: Path):
    with replacing(tmp_path / "picture.png") as part:
        assert part.parent == tmp_path  # a move to another disk would be a copy, which can fail midway
        assert part.suffix == ".png"  # writers choose the format by it


def test_a_bare_name_is_written_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with replacing(Path("data")) as part:
        part.write_bytes(b"new")
    assert contents(tmp_path) == {"data": b"new"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [{}, {"data": b"old"}])
def test_after_an_error_all_is_as_it_was(tmp_path: Path, before: dict[str, bytes], error: BaseException):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)

    def fail_midway() -> None:
        with replacing(tmp_path / "data") as part:
            part.write_bytes(b"half of")
            raise error

    with pytest.raises(type(error)) as caught:
        fail_midway()
    assert caught.value is error
    assert contents(tmp_path) == before


def test_a_writer_that_removed_the_part_is_an_error(tmp_path: Path):
    (tmp_path / "data").write_bytes(b"old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "data") as part:
        part.unlink()
    assert contents(tmp_path) == {"data": b"old"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_of_a_new_file_are_those_of_any(tmp_path: Path, umask, mode):
    previous = os.umask(umask)
    try:
        with replacing(tmp_path / "data"):
            pass
        umask_after = os.umask(umask)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == mode
    assert umask_after == umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_of_an_older_file_stay(tmp_path: Path, mode):
    path = tmp_path / "data"
    path.write_bytes(b"old")
    path.chmod(mode)
    with replacing(path) as part:
        part.write_bytes(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert contents(tmp_path) == {"data": b"new"}


def test_a_pipe_stays_a_pipe(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"pipe is not a regular file; name another file"), replacing(path):
        pass
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_errors_name_the_file_and_not_its_part(tmp_path: Path):
    for path, error in ((tmp_path / "absent" / "data", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error) as caught, replacing(path):
            pass
        assert caught.value.filename == str(path)


@pytest.mark.parametrize("name", ["n" * 255, "n" * 250 + ".json", "n." + "j" * 253, "\N{BLACK STAR}" * 85])
def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path, name):
    with replacing(tmp_path / name) as part:
        part.write_bytes(b"new")
    assert contents(tmp_path) == {name: b"new"}
