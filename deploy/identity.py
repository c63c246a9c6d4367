"""Identity files of swarm peers: a private key, and the peer id that follows from it.

The file is what p2pd reads: libp2p's protobuf message PrivateKey (libp2p's peer-ids specification). hivemind knows RSA
keys only. Read here without hivemind, whose import takes seconds.
"""

import hashlib
import os
from pathlib import Path

import base58
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_KEY_BITS = 2048
_RSA_HEAD = b"\x08\x00\x12"  # field 1, the key's type: RSA; field 2: the key
_SHA256_HEAD = b"\x12\x20"  # multihash: sha2-256, 32 bytes


def create(file: Path) -> None:
    """Make an identity, readable by its owner alone; one that exists is kept."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    # Never a half-written file under the name, nor one that others may read.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(_message(key))
    draft.replace(file)


def peer_id(file: Path) -> str:
    """The peer id of an identity file, as multiaddresses show it."""
    content = file.read_bytes()
    key = content[len(_RSA_HEAD) + 2 :]  # the length of any key of 1024 to 8192 bits takes two bytes
    if _message(key) != content:
        raise ValueError(f"{file} is no identity file with an RSA key")
    public = serialization.load_der_private_key(key, password=None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(_message(der)).digest()
    return base58.b58encode(_SHA256_HEAD + digest).decode()


def multiaddress(file: Path, host: str, port: int) -> str:
    """Where the peer with this identity is found when it listens on that IPv4 address and port."""
    return f"/ip4/{host}/tcp/{port}/p2p/{peer_id(file)}"


def _message(key: bytes) -> bytes:
    """libp2p's PrivateKey or PublicKey message of an RSA key in DER, its length a varint of two bytes."""
    size = len(key)
    return _RSA_HEAD + bytes([size & 127 | 128, size >> 7]) + key
