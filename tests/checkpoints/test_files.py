from pathlib import Path

import pytest

from kis_jax.checkpoints.files import write_atomically, write_directory_atomically


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
