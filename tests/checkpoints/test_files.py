import errno
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kis_jax.checkpoints.files import (
    room_for,
    write_atomically,
    write_directory_atomically,
    writing_alone,
)


def test_the_final_name_appears_only_when_the_file_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.suffix == ".json"
    assert path.read_text() == "half"


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


def test_a_killed_run_is_not_in_the_way_of_the_next(tmp_path):
    """A run that never came to its end stands for one that was killed, under the same pid."""
    directory = tmp_path / "a"
    killed = write_directory_atomically(directory)
    (killed.__enter__() / "x").write_text("half")
    with write_directory_atomically(directory) as temporary:
        (temporary / "x").write_text("whole")
    assert (directory / "x").read_text() == "whole"
    (tmp_path / "plain").mkdir()
    assert directory.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interrupt_between_the_renames_leaves_what_was_there(tmp_path, monkeypatch):
    directory = tmp_path / "a"
    directory.mkdir()
    (directory / "x").write_text("old")
    rename, calls = Path.rename, []

    def interrupted(path, target):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), write_directory_atomically(directory) as temporary:
        (temporary / "x").write_text("new")
    assert (directory / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


HOLDER = """
import sys, time
from pathlib import Path
from kis_jax.checkpoints.files import writing_alone
with writing_alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_writer_and_a_dead_one_holds_nothing(tmp_path):
    """The other is named; once it was killed the folder is free, whatever it left."""
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"out: .* found that of process {holder.pid} on "):
            with writing_alone(folder):
                pass
        with writing_alone(tmp_path / "other"):
            pass
        holder.kill()
    with writing_alone(folder), writing_alone(folder):  # what has it may ask again
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_start_at_once_one_writes_at_a_time(tmp_path, monkeypatch):
    """A hundred starts by threads, each as a process of its own would ask."""
    monkeypatch.setattr("kis_jax.checkpoints.files._OURS", _Nothing())
    inside, most, through, lock = 0, 0, 0, threading.Lock()

    def start():
        nonlocal inside, most, through
        for _ in range(5):
            try:
                with writing_alone(tmp_path / "out"):
                    with lock:
                        inside += 1
                        most, through = max(most, inside), through + 1
                    with lock:
                        inside -= 1
            except ValueError:
                pass

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and through >= 1


STARTS = """
import os, random, signal, sys, time
from pathlib import Path
from kis_jax.checkpoints.files import writing_alone

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
for start in range(10):
    time.sleep(draw.random() / 20)
    try:
        with writing_alone(folder / "out"):
            writer = folder / "writer"
            if writer.exists() and writer.read_text() != "about to die":
                sys.exit("two at once")
            writer.write_text("at work")
            time.sleep(draw.random() / 50)
            if seed % 3 == 0 and start > 4:
                writer.write_text("about to die")
                os.kill(os.getpid(), signal.SIGKILL)
            with (folder / "log").open("a") as log:
                log.write(f"{seed} {start}\\n")
            writer.unlink()
    except ValueError as refused:
        assert "no other run writes into, found that of" in str(refused)
"""


@pytest.mark.slow
def test_a_hundred_random_starts_of_processes_some_of_which_are_killed(tmp_path):
    """Never two at once, and a dead one holds nobody up for long."""
    command = [sys.executable, "-c", STARTS, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in range(10)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert all(status in (0, -signal.SIGKILL) for _, status in ended), ended
    assert any(status for _, status in ended) and not all(status for _, status in ended)
    through = (tmp_path / "log").read_text().splitlines()
    assert len(through) == len(set(through)) and len({line.split()[0] for line in through}) > 5
    with writing_alone(tmp_path / "out"):
        pass


class _Nothing(set):
    def add(self, item):
        pass


def test_where_nothing_may_be_written_beside_it_a_folder_has_no_lock(tmp_path, monkeypatch):
    def refused(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with writing_alone(tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), RuntimeError("RESOURCE_EXHAUSTED: Error writing")],
)
def test_a_full_disk_is_told_with_what_is_needed_and_found(tmp_path, error):
    with pytest.raises(
        ValueError, match="expected room for 5.0 MB to save, found .* MB free; what"
    ):
        with room_for(tmp_path, 5 * 10**6):
            raise error


def test_a_full_disk_is_told_where_nobody_knows_how_much_is_needed(tmp_path):
    """In a folder that is still to be made; a memory that is full is no disk."""
    with pytest.raises(ValueError, match="a/out: expected room to save, found .* MB free; what"):
        with room_for(tmp_path / "a" / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RuntimeError), room_for(tmp_path):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes")


def test_room_is_looked_for_before_anything_is_written(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match="expected room for 2.0 MB to save, found 1.0 MB free"):
        with room_for(tmp_path, 2 * 10**6):
            raise AssertionError("written")
    with pytest.raises(KeyError), room_for(tmp_path, 10):
        raise KeyError("something else")
