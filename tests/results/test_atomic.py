"""Files appear whole or not at all, whatever fails while they are written."""

import errno
import multiprocessing
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from support import ROOT

from cka_notebook import CKAResult
from cka_notebook._results import atomic

KEPT = "It is in `x`."
OLD, NEW = b"old", b"new, and longer"


@pytest.fixture
def path(tmp_path):
    """A file that is there already, alone in its folder."""
    path = tmp_path / "one.cka"
    path.write_bytes(OLD)
    return path


def write(path):
    atomic.replace(path, [NEW[:5], memoryview(NEW[5:])], KEPT)


def names(folder):
    return [path.name for path in folder.iterdir()]


STEPS = [
    (Path, "open"),
    (Path, "chmod"),
    (Path, "replace"),
    (os, "write"),
    (os, "fsync"),
    (os, "access"),
    (os, "fstat"),
]
REASONS = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "your disk quota is used up. Free some space",
    errno.EROFS: "its file system is read-only. Use a path on another one",
    errno.EACCES: "permission denied. Use a file and a folder that you may change",
    errno.EPERM: "permission denied. Use a file and a folder that you may change",
    errno.EFBIG: "larger than a file may be there. Use another disk",
    errno.EIO: "Input/output error. Use another path",
}


@pytest.mark.parametrize("number", REASONS)
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_a_step_that_fails_leaves_the_old_file_and_is_explained(
    path, monkeypatch, owner, step, number
):
    path.chmod(0o600)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises(OSError, match=re.escape(REASONS[number])) as caught:
            write(path)
    assert caught.value.errno == number
    assert type(caught.value) is type(OSError(number, ""))
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(KEPT)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["one.cka"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_other_exceptions_pass_and_leave_the_old_file(
    path, monkeypatch, owner, step, error
):
    path.chmod(0o600)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises(error):
            write(path)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["one.cka"]


def test_a_disk_that_fills_up_within_a_write_leaves_the_old_file(path, monkeypatch):
    real, room = os.write, [7]

    def write_some(file, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "")
        count = real(file, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_some)
        with pytest.raises(OSError, match="the disk is full"):
            write(path)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["one.cka"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_explained(path, monkeypatch):
    real = os.write

    def write_there(_, data):
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            return real(full, data)
        finally:
            os.close(full)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_there)
        with pytest.raises(OSError, match="the disk is full"):
            write(path)


def test_short_writes_are_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:2]))
    write(path)
    assert path.read_bytes() == NEW


def test_large_content_is_written_in_pieces(path, monkeypatch):
    monkeypatch.setattr(atomic, "CHUNK", 4)
    write(path)
    assert path.read_bytes() == NEW


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_instruction_leaves_a_whole_file_and_no_other(
    path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # Slow, and no instruction.
    seen = set()
    for number in range(10_000):
        path.write_bytes(OLD)
        path.chmod(0o600)
        if not interrupted(number, path):
            break
        seen.add(path.read_bytes())
        assert names(path.parent) == ["one.cka"], number
    assert number > 200
    assert seen == {OLD, NEW}
    assert path.read_bytes() == NEW


def test_two_interrupts_in_a_row_leave_no_other_file(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", interrupt)
    monkeypatch.setattr(atomic, "_remove", Struck(atomic._remove))
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["one.cka"]


def interrupt(*_):
    raise KeyboardInterrupt


class Struck:
    """A function that is interrupted when it is first called."""

    def __init__(self, function):
        self._next = [interrupt, *[function] * 9]

    def __call__(self, *given):
        self._next.pop(0)(*given)


KILLED = """
import os, signal, sys
from cka_notebook._results import atomic

def chunks():
    yield b"new"
    os.kill(os.getpid(), signal.SIGKILL)

atomic.replace(sys.argv[1], chunks(), "")
"""


def test_what_a_killed_writer_has_left_is_removed_a_day_later_and_nothing_else(path):
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, check=False)
    (left,) = (x for x in path.parent.iterdir() if x != path)
    others = [
        path.with_name(name)
        for name in (
            left.name.replace("one", "two"),
            left.name.replace(".part", ""),
            "one.cka.part",
            "one.cka.backup.part",
            f"one.cka.1.2.{'g' * 16}.part",
        )
    ]
    for other in others:
        other.write_bytes(b"")
        os.utime(other, (0, 0))
    write(path)
    assert left.exists(), "it may be of a writer at work"
    now = left.stat().st_mtime
    os.utime(left, (now, now - atomic.ABANDONED - 60))
    write(path)
    assert not left.exists()
    assert all(other.exists() for other in others)
    assert path.read_bytes() == NEW


def interrupted(number, path):
    """Whether a write had an instruction of this number, where it was interrupted."""
    left = [number]

    def trace(frame, event, _):
        if frame.f_code.co_filename != atomic.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write(path)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *((wrong, TypeError) for wrong in (5, None, b"one.cka", [], True)),
        *((wrong, ValueError) for wrong in ("\0", "a\0b", Path("a\0b"))),
    ],
)
@pytest.mark.parametrize("use", [write, atomic.check, CKAResult.load])
def test_what_is_no_path_is_named(use, wrong, error):
    with pytest.raises(error, match=r"Expected the path of a file.*, got ") as caught:
        use(wrong)
    name = os.fspath(wrong) if isinstance(wrong, Path) else wrong
    assert repr(name) in str(caught.value)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    again = tmp_path / "link to link"
    again.symlink_to(link)
    for path in (link, again):  # At first, the link leads nowhere.
        write(path)
        assert path.is_symlink()
        assert target.read_bytes() == NEW
        assert names(target.parent) == ["file"]
        target.write_bytes(OLD)


def test_a_link_into_a_folder_that_is_missing_names_that_folder(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone" / "file")
    with pytest.raises(FileNotFoundError, match=r"folder '.*gone' does not exist"):
        write(link)
    assert names(tmp_path) == ["link"]


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"Cannot write '.*a': "):
        write(tmp_path / "a")
    assert sorted(names(tmp_path)) == ["a", "b"]


def pipe(path):
    os.mkfifo(path)


def listener(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device node")


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("make", [pipe, listener, device, Path.mkdir])
def test_only_a_regular_file_is_replaced(tmp_path, monkeypatch, make, linked):
    monkeypatch.chdir(tmp_path)  # A socket has a short path.
    path = Path("thing")
    make(path)
    before = path.stat()
    if linked:
        path = Path("link")
        path.symlink_to("thing")
    left = sorted(names(Path()))
    for act in (write, atomic.check):
        with pytest.raises(OSError, match=r"it is a (folder|device, a pipe or a sock)"):
            act(path)
    assert path.stat().st_mode == before.st_mode
    assert path.stat().st_ino == before.st_ino
    assert sorted(names(Path())) == left


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write(tmp_path / f"{mask}")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o777])
def test_a_replaced_file_keeps_its_permissions(path, mode):
    path.chmod(mode)
    write(path)
    assert path.read_bytes() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_file_that_is_write_protected_is_not_replaced(path, monkeypatch):
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # As root, everything may be written.
        monkeypatch.setattr(os, "access", lambda *_: False)
    for act in (write, atomic.check):
        with pytest.raises(PermissionError, match=r"one.cka': permission denied"):
            act(path)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "\U0001f600" * 63, " ", "-"])
def test_names_of_any_length_and_kind_can_be_written(tmp_path, name):
    write(tmp_path / name)
    assert names(tmp_path) == [name]


def test_an_impossible_path_is_an_error_with_a_remedy(path):
    with pytest.raises(OSError, match=r"its name is too long\. Use a shorter one"):
        write(path.parent / ("a" * 256))
    with pytest.raises(NotADirectoryError, match=r"one.cka' is not a folder"):
        write(path / "file")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write(path.parent)


def test_a_check_leaves_nothing_and_changes_nothing(path):
    atomic.check(path)
    atomic.check(path.parent / "new")
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["one.cka"]
    with pytest.raises(FileNotFoundError, match=r"gone' does not exist\. Create it"):
        atomic.check(path.parent / "gone" / "file")


def result_of(number, size=40):
    values = torch.full((size, size), float(number), dtype=torch.float64)
    names = tuple(map(str, range(size)))
    return CKAResult(values, values.abs(), names, names, batches=number)


def save_often(path, number, count):
    result = result_of(number)
    for _ in range(count):
        result.save(path)


def is_whole(path):
    loaded = CKAResult.load(path)
    return bool((loaded.matrix == loaded.batches).all())


def test_of_many_threads_that_save_to_one_path_none_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # Only its time matters here.
    path, errors = tmp_path / "one.cka", []
    result_of(0).save(path)

    def work(number):
        try:
            save_often(path, number, 150)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    reads = 0
    while any(thread.is_alive() for thread in threads):
        assert is_whole(path)
        reads += 1
    assert errors == []
    assert reads > 0
    assert names(tmp_path) == ["one.cka"]


@pytest.mark.slow
def test_of_many_processes_that_save_to_one_path_none_fails(tmp_path):
    path = tmp_path / "one.cka"
    result_of(0).save(path)
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=save_often, args=(path, n, 150)) for n in range(4)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert is_whole(path)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert names(tmp_path) == ["one.cka"]


WRITES = re.compile(
    r"write_text|write_bytes|\.touch\(|savefig|imsave|save_file|torch\.save\(|np\.save"
    r"|json\.dump\(|open\([^)]*[\"'][rb+]*[wax]|os\.(rename|replace)|shutil"
)


def test_nothing_else_in_the_package_writes_files():
    sources = (ROOT / "cka_notebook").rglob("*.py")
    writers = [p.name for p in sources if WRITES.search(p.read_text(encoding="utf-8"))]
    assert writers == ["atomic.py"]
