"""The keys that are about Kafka and the spool, and the settings that they come to.

* Without `kafka_bootstrap` none of them matters: the log is the embedded one.
* The bounds are those of the settings in `schemas.kafka`, which the command line, the gateway and consumers share.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from gateway.log_bounds import LogBounds, grounds, least_log_bytes, most_published_bytes, most_record_bytes
from schemas.kafka import GIB, KIB, MIB, KafkaSettings, TopicSettings

_BROKER: Final = r"[^\s,:]+:[0-9]{1,5}"


def _text(description: str, allowed: str, pattern: str, *, secret: bool = False) -> Meta:
    return Meta(description=description, pattern=rf"\A({pattern})\Z", extra={"allowed": allowed, "secret": secret})


def _file(description: str) -> Meta:
    return _text(description, "a path", r"[^\0]*")


def _hours(description: str) -> Meta:
    return Meta(ge=1, le=87_600, description=description)


class KafkaKeys(Struct, frozen=True, kw_only=True):
    """The part of the configuration that is about Kafka."""

    kafka_bootstrap: Annotated[
        str,
        _text(
            "some of the Kafka brokers; empty: the log is a file under `data`",
            "HOST:PORT, several with commas between them",
            rf"|{_BROKER}(,{_BROKER})*",
        ),
    ] = ""
    kafka_topic_prefix: Annotated[
        str,
        _text(
            "stands before the names of topics and groups", "letters, digits, `.`, `_` and -", r"[A-Za-z0-9._-]{0,64}"
        ),
    ] = ""
    kafka_group: Annotated[
        str,
        _text(
            "consumers that fill one warehouse share it; empty: `warehouse`, and one of its own for an embedded server",
            "letters, digits, `.`, `_` and -",
            r"[A-Za-z0-9._-]{0,128}",
        ),
    ] = ""
    kafka_security: Annotated[
        Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"],
        Meta(description="how connections to Kafka are protected, and whether a user logs in"),
    ] = "plaintext"
    kafka_ca_file: Annotated[
        str, _file("PEM file of the authorities that sign the brokers' certificates; empty: the system's")
    ] = ""
    kafka_certificate_file: Annotated[str, _file("PEM file of our certificate, where brokers ask for one")] = ""
    kafka_key_file: Annotated[str, _file("PEM file of its private key; empty: it stands in the same file")] = ""
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Meta(description="how the user logs in, with sasl_*")
    ] = "SCRAM-SHA-512"
    kafka_sasl_user: Annotated[str, _text("the user, with sasl_*", "one line", r"[^\0\r\n]{0,256}")] = ""
    kafka_sasl_password: Annotated[
        str, _text("the user's password, with sasl_*", "one line", r"[^\0\r\n]{0,1024}", secret=True)
    ] = ""

    kafka_partitions: Annotated[
        int, Meta(ge=1, le=4096, description="partitions of topics made here; choose once: more later move devices")
    ] = 12
    kafka_replication: Annotated[
        int, Meta(ge=1, le=15, description="brokers that keep a copy of each record; 1 where there is one broker")
    ] = 3
    kafka_min_insync: Annotated[
        int,
        Meta(
            ge=0,
            le=15,
            description="copies before a record counts as stored; 0: one fewer than the replication, of two both",
        ),
    ] = 0
    kafka_batches_retention_hours: Annotated[int, _hours("how long Kafka keeps batches")] = 168
    kafka_dead_letters_retention_hours: Annotated[int, _hours("how long Kafka keeps dead letters")] = 720
    kafka_events_retention_hours: Annotated[int, _hours("how long Kafka keeps unpacked events")] = 168
    kafka_events_compression: Annotated[
        Literal["producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"],
        Meta(description="how brokers compress unpacked events; batches stay as devices compressed them"),
    ] = "zstd"
    kafka_record_max_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=GIB,
            description="the largest record on Kafka; a refused body takes 4/3 of its size, and some KiB",
        ),
    ] = 2 * MIB
    kafka_publish_seconds: Annotated[
        float, Meta(ge=0.1, le=300, description="how long a batch waits for Kafka before it goes to the spool")
    ] = 5.0
    kafka_topics_check_seconds: Annotated[
        float, Meta(ge=0.1, le=86_400, description="how soon a gateway notices a topic that somebody changed")
    ] = 60.0
    kafka_renew_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="a gateway's connection that confirms nothing for so long is made again")
    ] = 30.0
    kafka_read_seconds: Annotated[
        float, Meta(ge=1, le=300, description="how long Kafka may take to answer a consumer before that begins anew")
    ] = 30.0
    kafka_pending_max_bytes: Annotated[
        int, Meta(ge=64 * KIB, le=16 * GIB, description="bytes that may wait for Kafka's confirmation")
    ] = 64 * MIB
    kafka_session_seconds: Annotated[
        float, Meta(ge=1, le=300, description="a consumer that is silent for so long loses its partitions to others")
    ] = 10.0

    spool: Annotated[
        Literal["on", "off"],
        Meta(
            description="whether batches are kept under `data` while Kafka is away; off: they are answered 503 at once"
        ),
    ] = "on"
    spool_max_bytes: Annotated[
        int, Meta(ge=MIB, le=2**50, description="how much the spool keeps before batches are answered 503")
    ] = 8 * GIB
    spool_drain_records_per_second: Annotated[
        int,
        Meta(ge=10, le=10_000_000, description="how fast the spool shrinks once Kafka is back, beside what arrives"),
    ] = 2000

    spool_stuck_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="how long a record that is too large for Kafka holds up the spool's others"),
    ] = 300.0

    warehouse: Annotated[
        Literal["on", "off"],
        Meta(description="whether `serve` fills the warehouse; off: `backhaul consume warehouse` does, elsewhere"),
    ] = "on"
    unpack_range_records: Annotated[
        int, Meta(ge=1, le=100_000, description="the most batches that are unpacked in one transaction")
    ] = 500
    unpack_range_bytes: Annotated[
        int, Meta(ge=64 * KIB, le=GIB, description="the most bytes of batches in one transaction, as read")
    ] = 4 * MIB
    unpack_transaction_seconds: Annotated[
        float, Meta(ge=1, le=900, description="a transaction that is open for longer is aborted by the brokers")
    ] = 60.0
    unpack_resend_window_records: Annotated[
        int, Meta(ge=0, le=1_000_000, description="records of a partition in which a batch sent again is not unpacked")
    ] = 5000

    @property
    def kafka(self) -> KafkaSettings | None:
        """Where Kafka is and who we are to it; None where the log is the embedded one."""
        if not self.kafka_bootstrap:
            return None
        return KafkaSettings(
            bootstrap=self.kafka_bootstrap,
            topic_prefix=self.kafka_topic_prefix,
            security=self.kafka_security,
            ca_file=self.kafka_ca_file,
            certificate_file=self.kafka_certificate_file,
            key_file=self.kafka_key_file,
            sasl_mechanism=self.kafka_sasl_mechanism,
            sasl_user=self.kafka_sasl_user,
            sasl_password=self.kafka_sasl_password,
        )

    @property
    def topics(self) -> TopicSettings:
        """What the topics are made with and compared with."""
        return TopicSettings(
            partitions=self.kafka_partitions,
            replication=self.kafka_replication,
            min_insync=self.kafka_min_insync,
            batches_retention_hours=self.kafka_batches_retention_hours,
            dead_letters_retention_hours=self.kafka_dead_letters_retention_hours,
            events_retention_hours=self.kafka_events_retention_hours,
            events_compression=self.kafka_events_compression,
            max_record_bytes=self.kafka_record_max_bytes,
        )


def contradiction(keys: KafkaKeys, bounds: LogBounds) -> str | None:
    """Say which keys contradict each other; None where none do. Files are looked at by `unusable`."""
    if not keys.kafka_bootstrap:
        off = "warehouse=off needs kafka_bootstrap: a log that is a file has one reader"
        return None if keys.warehouse == "on" else off
    if keys.kafka_min_insync > keys.kafka_replication:
        return f"kafka_min_insync ({keys.kafka_min_insync}) is above kafka_replication ({keys.kafka_replication})"
    if keys.kafka_security.startswith("sasl") and not keys.kafka_sasl_user:
        return f"kafka_security {keys.kafka_security} needs kafka_sasl_user"
    for key, least_bytes in (
        ("kafka_record_max_bytes", most_record_bytes(bounds)),
        ("kafka_pending_max_bytes", most_published_bytes(bounds)),
        ("spool_max_bytes", least_log_bytes(bounds)),
    ):
        if getattr(keys, key) < least_bytes:
            return f"{key} ({getattr(keys, key)}) must be at least {least_bytes}: {grounds(bounds)}"
    return None


def unusable(kafka: KafkaSettings) -> str | None:
    """Say what is wrong with the files that the settings name; None where nothing is."""
    try:
        kafka.client_options()
    except OSError as error:  # TLS errors are OSErrors
        files = ", ".join(filter(None, (kafka.ca_file, kafka.certificate_file, kafka.key_file)))
        return f"Kafka's TLS files cannot be used ({files}): {error.strerror or error}"
    return None
