"""Listeners of a broker that ask for TLS and for a user, and the certificates and names that open them."""

import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local_kafka import Guarded

USER: Final = "gateway"
PASSWORD: Final = "correct horse"
_SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Doors:
    """Addresses by security, and the files that open them: `client` is asked for where it is `tls` alone."""

    address: dict[str, str]
    ca: Path
    client: Path


def guarded(directory: Path) -> tuple[Doors, Guarded]:
    """Make certificates in the directory; return where the doors are and what makes a broker have them."""
    directory.mkdir(parents=True)
    authority = Authority("brokers", directory)
    broker, client = authority.issue("broker"), authority.issue("client")
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in free]
    doors = dict(zip(("tls", "sasl_tls", "sasl_plaintext"), addresses, strict=True))
    listeners = [f"{security.upper().replace('TLS', 'SSL')}://{address}" for security, address in doors.items()]
    return Doors(doors, authority.file, client), Guarded(listeners, _properties(broker, authority.file), _users())


def _properties(broker: Path, ca: Path) -> dict[str, str]:
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    by_mechanism = {"plain": plain, **{name.lower(): scram for name in _SCRAM}}
    guarded_names = [f"{name}:{name}" for name in ("SSL", "SASL_SSL", "SASL_PLAINTEXT")]
    return {
        "listener.security.protocol.map": ",".join(
            ("CONTROLLER:PLAINTEXT", "INNER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", *guarded_names)
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(broker),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(("PLAIN", *_SCRAM)),
        **{
            f"listener.name.{door}.{mechanism}.sasl.jaas.config": said
            for door in ("sasl_ssl", "sasl_plaintext")
            for mechanism, said in by_mechanism.items()
        },
    }


def _users() -> list[str]:
    return [f"{mechanism}=[name={USER},password={PASSWORD}]" for mechanism in _SCRAM]


class Authority:
    """Signs certificates for this machine, for some hours."""

    def __init__(self, name: str, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = directory / f"{name}-ca.pem"
        made = self._certificate(self._name, self._key.public_key(), is_authority=True)
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Path:
        """Return a file with a private key, and the certificate that goes with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = self._certificate(subject, key.public_key(), is_authority=False)
        pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file = self._directory / f"{name}.pem"
        file.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()) + made.public_bytes(pem))
        return file

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=24))
            .add_extension(here, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
