import pytest

from kis_jax.checkpoints.files import write_atomically


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
