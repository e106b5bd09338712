"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work that makes its content.

    Raises:
        OSError: it cannot be written; the message says why and what to do.
    """
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file; name another file")
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}; create it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"{path} cannot be written: {error.strerror} in {folder}; name a file in another folder"
        ) from None


# The longest ending that a temporary file takes over from the file. Names have at most 255 bytes on most systems.
_LONGEST_SUFFIX = 16


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that replaces `path` when the block ends. After an error, `path` is unchanged.

    An older file passes its permissions on; a new one has those of any new file.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    path = path.resolve()  # a link stays a link
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    mode = None
    if path.exists():
        if not path.is_file():
            raise OSError(f"{path} is not a regular file; name another file")
        mode = stat.S_IMODE(path.stat().st_mode)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".polyfit-", suffix=suffix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        if mode is None:
            # mkstemp makes files that only their owner can read.
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
