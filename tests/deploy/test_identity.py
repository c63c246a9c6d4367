import stat
from pathlib import Path

import pytest

from deploy import identity


def test_the_peer_id_is_the_one_that_hivemind_finds(tmp_path: Path) -> None:
    import worker.petals_compat  # noqa: F401  # quiet

    # isort: split
    from hivemind.p2p import PeerID

    # given
    file = tmp_path / "new" / "identity"
    identity.create(file)
    # then
    assert identity.peer_id(file) == PeerID.from_identity(file.read_bytes()).to_base58()
    assert identity.multiaddress(file, "127.0.0.1", 31337) == f"/ip4/127.0.0.1/tcp/31337/p2p/{identity.peer_id(file)}"


def test_an_identity_is_kept_and_secret(tmp_path: Path) -> None:
    # given
    file = tmp_path / "identity"
    identity.create(file)
    first = file.read_bytes()
    # when
    identity.create(file)
    # then
    assert file.read_bytes() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["identity"]


@pytest.mark.parametrize("content", [b"", b"hello, I am no key", b"\x08\x00\x12\x80\x01short"])
def test_another_file_is_no_identity(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is no identity file"):
        identity.peer_id(file)
