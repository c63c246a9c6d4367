"""Links to a broker that wants TLS, and that knows its users."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import BrokerUnavailable
from shared.link import Link, SyncLink
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

SERVE = ("{p}:workers",)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Files of a new certificate for 127.0.0.1, which vouches for itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def secured(valkey: Valkey, tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """TLS in front of the broker: its port, and the certificate to trust."""
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], cert
    server.close()


async def test_tls_to_a_server_that_is_trusted(secured: tuple[int, Path]) -> None:
    port, cert = secured
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"
    link = Link(url, "{p}:")
    assert await link.run("workers", SERVE) == []
    await link.close()
    blocking = SyncLink(url, "{p}:", 5)
    assert await asyncio.to_thread(blocking.run, "workers", SERVE) == []
    blocking.close()


async def test_a_server_that_nobody_vouches_for_is_unavailable(secured: tuple[int, Path]) -> None:
    link = Link(f"rediss://127.0.0.1:{secured[0]}/0", "{p}:")
    with pytest.raises(BrokerUnavailable):
        await link.ping()
    await link.close()


async def test_a_user_with_a_password(valkey: Valkey) -> None:
    valkey.client.acl_setuser("ann", enabled=True, passwords=["+p/w:1"], keys=["{p}:*"], categories=["+@all"])
    try:
        link = Link(f"redis://ann:p%2Fw%3A1@127.0.0.1:{valkey.port}/0", "{p}:")
        assert await link.run("workers", SERVE) == []
        await link.close()
        stranger = Link(f"redis://ann:wrong@127.0.0.1:{valkey.port}/0", "{p}:")
        with pytest.raises(BrokerUnavailable):
            await stranger.ping()
        await stranger.close()
    finally:
        valkey.client.acl_deluser("ann")
