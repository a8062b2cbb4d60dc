"""Folders are whole or absent."""

import pytest

from chopgrad_ns.files import whole_folder


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("")
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "new").write_text("")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] and (tmp_path / "folder" / "old").exists()
    with whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "new").write_text("")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
