"""How Kafka is reached and what its topics look like: what a gateway and a consumer of one log must agree on.

* A topic's name on Kafka is `topic_prefix` + the name in `schemas.topics`, so that several installations can share a
  cluster.
"""

import ssl
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_HOURS: Final = Meta(ge=1, le=87_600)


class KafkaSettings(Struct, frozen=True, kw_only=True):
    """Where the brokers are and who we are to them."""

    bootstrap: Annotated[
        str,
        Meta(
            pattern=r"\A[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*\Z",
            description="some of the brokers, HOST:PORT with commas between them",
        ),
    ]
    topic_prefix: Annotated[
        str, Meta(pattern=r"\A[A-Za-z0-9._-]{0,64}\Z", description="stands before the name of every topic")
    ] = ""
    client_id: Annotated[str, Meta(pattern=r"\A[!-~]{1,64}\Z", description="our name in the brokers' logs")] = (
        "backhaul"
    )
    security: Annotated[
        Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"],
        Meta(description="how connections are protected and who proves who they are"),
    ] = "plaintext"
    ca_file: Annotated[
        str, Meta(description="PEM file of the authorities that sign the brokers' certificates; empty: the system's")
    ] = ""
    certificate_file: Annotated[str, Meta(description="PEM file of our own certificate, where brokers ask for one")] = (
        ""
    )
    key_file: Annotated[
        str, Meta(description="PEM file of its private key; empty: it stands in the certificate's file")
    ] = ""
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Meta(description="how the user proves to be the user")
    ] = "SCRAM-SHA-512"
    sasl_user: Annotated[str, Meta(max_length=256, description="the user, with security sasl_*")] = ""
    sasl_password: Annotated[
        str, Meta(max_length=1024, description="the user's password, with security sasl_*", extra={"secret": True})
    ] = ""

    def __repr__(self) -> str:
        return f"KafkaSettings({self.bootstrap!r}, topic_prefix={self.topic_prefix!r}, security={self.security!r})"

    def topic(self, name: str) -> str:
        """Return the topic's name on Kafka."""
        return self.topic_prefix + name

    def client_options(self) -> dict[str, Any]:
        """Return what every client of aiokafka is made with. Raises OSError for a file that cannot be read."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "security_protocol": self.security.upper().replace("TLS", "SSL"),
        }
        if self.security.endswith("tls"):
            options["ssl_context"] = self._tls()
        if self.security.startswith("sasl"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_user
            options["sasl_plain_password"] = self.sasl_password
        return options

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.certificate_file:
            context.load_cert_chain(self.certificate_file, self.key_file or None)
        return context


class TopicSettings(Struct, frozen=True, kw_only=True):
    """What the topics are made with; topics that exist already are compared with it and left as they are."""

    partitions: Annotated[
        int, Meta(ge=1, le=4096, description="partitions of each topic; choose once: more later move devices")
    ] = 12
    replication: Annotated[int, Meta(ge=1, le=15, description="brokers that keep a copy of each record")] = 3
    min_insync: Annotated[
        int,
        Meta(
            ge=0,
            le=15,
            description="copies before a record counts as stored; 0: one fewer than replication, of two both",
        ),
    ] = 0
    batches_retention_hours: Annotated[int, _HOURS, Meta(description="how long batches can be read again")] = 168
    dead_letters_retention_hours: Annotated[int, _HOURS, Meta(description="the same for dead letters")] = 720
    events_retention_hours: Annotated[int, _HOURS, Meta(description="the same for plain events")] = 168
    events_compression: Annotated[
        Literal["producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"],
        Meta(description="how brokers compress plain events; batches stay as devices compressed them"),
    ] = "zstd"
    max_record_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=GIB,
            description="the largest record; a refused body takes 4/3 of its size and 2 KiB, so above `body_max_bytes`",
        ),
    ] = 2 * MIB

    @property
    def needed_insync(self) -> int:
        """`min_insync`, the default filled in: no single broker's death takes what was acknowledged, where one can help
        it. With two brokers that means that both must be there."""
        return self.min_insync or max(min(2, self.replication), self.replication - 1)
