"""Files that appear whole or not at all, for everything the package writes."""

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cka_notebook._undo import Undo

PathLike = str | os.PathLike[str]

CHUNK = 1 << 24
"""Bytes per write, between which an interrupt is noticed."""

NAME = 32
"""Characters of its name that a file shares with its temporary one, which is longer."""

ABANDONED = 86_400.0
"""Seconds since its last write after which nobody is writing a temporary file."""

REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or use another disk."),
    errno.EDQUOT: (
        "your disk quota is used up",
        "Free some space, or use another disk.",
    ),
    errno.EROFS: ("its file system is read-only", "Use a path on another one."),
    errno.EACCES: ("permission denied", "Use a file and a folder that you may change."),
    errno.EPERM: ("permission denied", "Use a file and a folder that you may change."),
    errno.EISDIR: ("it is a folder", "Use the path of a file."),
    errno.EFBIG: (
        "it would be larger than a file may be there",
        "Use another disk, or raise the limit.",
    ),
    errno.ENAMETOOLONG: ("its name is too long", "Use a shorter one."),
}
"""What happened and what to do, in words, by error number."""


def replace(path: PathLike, chunks: Iterable[memoryview | bytes], kept: str) -> None:
    """Write a file that appears complete, with its bytes on the disk, or not at all.

    Of several writers to one path the last one wins. A symbolic link stays, and the
    file that it points to is replaced. A new file has the permissions that the umask
    leaves, and one that replaces another has those of the old file.

    Args:
        path: The file.
        chunks: Its bytes.
        kept: Where its content is if it cannot be written, in a sentence.

    Raises:
        OSError: If it cannot be written, of the kind that says why, or if there is
            anything other than a regular file.
    """
    with _explained(path, kept):
        target, mode = _target(path)
        part, undo = _part(target), Undo()
        with undo, undo:
            undo.add(_remove, part)
            with part.open("xb", buffering=0) as file:
                if mode not in (None, stat.S_IMODE(os.fstat(file.fileno()).st_mode)):
                    part.chmod(mode)
                for chunk in chunks:
                    _write(file.fileno(), memoryview(chunk))
                os.fsync(file.fileno())
                now = os.fstat(file.fileno()).st_mtime
            part.replace(target)
    _sync(target.parent)
    _sweep(target, now - ABANDONED)


def check(path: PathLike) -> None:
    """Raise the OSError of `replace` now, if a file cannot be written there."""
    with _explained(path):
        part, undo = _part(_target(path)[0]), Undo()
        with undo, undo:
            undo.add(_remove, part)
            part.open("xb").close()


def check_name(path: object) -> None:
    """Raise TypeError or ValueError if this cannot be the path of a file."""
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        msg = f"Expected the path of a file, a str or a Path, got {path!r}."
        raise TypeError(msg)
    if "\0" in name:
        msg = f"Expected the path of a file, got {name!r}, which has a null character."
        raise ValueError(msg)


def _target(path: PathLike) -> tuple[Path, int | None]:
    """The file to replace, with links resolved, and its permissions if it exists."""
    target = Path(os.path.realpath(path))
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "")
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    return target, mode & 0o777


def _part(target: Path) -> Path:
    """A name that no other writer has, not even after a fork."""
    writer = f"{os.getpid()}.{threading.get_ident()}.{secrets.token_hex(8)}"
    return target.with_name(f"{target.name[:NAME]}.{writer}.part")


def _sweep(target: Path, before: float) -> None:
    """Remove what writers to this path have left that were killed, if it is old.

    The clock is that of the file system, which may be another machine's.
    """
    name = re.compile(re.escape(target.name[:NAME]) + r"\.\d+\.\d+\.[0-9a-f]{16}\.part")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.stat().st_mtime < before:
                _remove(Path(entry.path))


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data[:CHUNK]) :]


def _remove(part: Path) -> None:
    """Remove what is left of a file; a second error must not hide the first."""
    with suppress(OSError):
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Keep the new name through a power failure, where folders can be synced."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def _explained(path: PathLike, kept: str = "") -> Iterator[None]:
    """Name path, reason, remedy and where the content is in errors of the system."""
    check_name(path)
    try:
        yield
    except OSError as error:
        reason, remedy = _reason(error, _folder(path))
        msg = f"Cannot write {os.fspath(path)!r}: {reason}. {remedy} {kept}".strip()
        raise OSError(error.errno, msg) from error


def _folder(path: PathLike) -> Path:
    """The folder that an error is about: the given one, or the target of a link."""
    given = Path(path).parent
    return Path(os.path.realpath(path)).parent if given.is_dir() else given


def _reason(error: OSError, folder: Path) -> tuple[str, str]:
    if error.errno == errno.ENOENT:
        return f"folder {str(folder)!r} does not exist", "Create it first."
    if error.errno == errno.ENOTDIR:
        return f"{str(folder)!r} is not a folder", "Use another path."
    if error.errno == errno.EEXIST:
        what = "it is a device, a pipe or a socket, not a file"
        return what, "Use another path."
    other = error.strerror or str(error)
    return REASONS.get(error.errno or 0, (other, "Use another path."))
