"""Files below a folder, and below another kind of URL."""

import io
from pathlib import Path

import pytest

from gateway.storage import Storage
from shared.settings import SettingError


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "files") if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_blob_from_write_to_remove(storage: Storage) -> None:
    assert storage.write("one", io.BytesIO(b"a\n\n b \n")) == 7
    assert storage.write("one", io.BytesIO(b"c\nd")) == 3
    assert (storage.has("one"), list(storage.lines("one"))) == (True, [b"c", b"d"])
    storage.remove("one")
    storage.remove("one")
    assert not storage.has("one")
    with pytest.raises(FileNotFoundError):
        storage.open("one")


def test_a_folder_of_blobs_is_removed_as_a_whole(storage: Storage) -> None:
    for name in ("batch/0", "batch/1", "other"):
        storage.write(name, io.BytesIO(b"x"))
    storage.remove("batch")
    assert [storage.has(name) for name in ("batch/0", "batch/1", "other")] == [False, False, True]


def test_what_breaks_off_leaves_what_was_there(storage: Storage) -> None:
    class Broken:
        def read(self, _: int = 0) -> bytes:
            raise OSError("broken")

    storage.write("one", io.BytesIO(b"x"))
    with pytest.raises(OSError, match="broken"):
        storage.write("one", Broken())
    assert list(storage.lines("one")) == [b"x"]


def test_a_url_that_nothing_can_reach() -> None:
    with pytest.raises(
        SettingError, match=r"^COROLLA_FILES is 'nowhere://x', which cannot be used: Protocol not known"
    ):
        Storage("nowhere://x")
