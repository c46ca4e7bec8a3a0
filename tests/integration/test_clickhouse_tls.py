"""A ClickHouse server behind TLS is believed when the named authority signed for it, and only then."""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.clickhouse_server import ADMIN, ServerError, connect, password_of
from tests.guarded_kafka import Authority


def certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for this machine that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "ca.pem", directory / "key.pem"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return certificate_file, key_file


@pytest.fixture
async def url(clickhouse: Any, tmp_path: Path) -> AsyncIterator[str]:
    """The embedded server, behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", clickhouse.port)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_named_authority_is_believed_and_no_other(clickhouse: Any, url: str, tmp_path: Path) -> None:
    password = password_of(clickhouse.directory)
    client = await connect(url, ADMIN, password, ca_file=str(tmp_path / "ca.pem"))
    assert (await client.query("SELECT 1")).result_rows == [(1,)]
    await client.close()


async def test_who_is_not_let_in_is_told_which_key_to_look_at(clickhouse: Any, url: str, tmp_path: Path) -> None:
    ours, other = str(tmp_path / "ca.pem"), str(Authority("others", tmp_path).file)
    plain = url.replace("https", "http")
    for address, ca_file, said in (
        (url, ours, "refuses the user 'backhaul': check clickhouse_user and clickhouse_password"),
        (url, other, "not believed (self-signed certificate): check clickhouse_ca_file"),
        (url, "", "not believed (self-signed certificate): check clickhouse_ca_file"),
        (url, str(tmp_path / "none.pem"), "clickhouse_ca_file cannot be read"),
        (plain, "", "hangs up: check whether clickhouse_url begins with http or https"),
        (clickhouse.url.replace("http", "https"), "", "speaks no TLS there: check whether clickhouse_url begins"),
    ):
        with pytest.raises(ServerError, match=re.escape(said)):
            await connect(address, ADMIN, "guessed", ca_file=ca_file)
