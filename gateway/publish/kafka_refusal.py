"""Say why no broker lets us in, and which key to look at: aiokafka itself only says that none did.

* Each named broker is asked once more, alone, as far as its first answer: TLS, login, metadata.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from schemas.kafka import KafkaSettings

_TIMEOUT_MS: Final = 4000


class Refused(KafkaConnectionError):  # type: ignore[misc, unused-ignore]  # aiokafka has no types
    """No broker let us in; the text names each with its reason."""

    def __str__(self) -> str:
        return str(self.args[0])

    __repr__ = __str__


async def refusal(kafka: KafkaSettings) -> Refused:
    """Ask every named broker why. Raises OSError for a TLS file that cannot be read."""
    options = kafka.client_options()
    addresses = str(options.pop("bootstrap_servers")).split(",")
    reasons = await asyncio.gather(*(_reason(kafka, address, options) for address in addresses))
    brokers: dict[str, list[str]] = {}
    for address, reason in zip(addresses, reasons, strict=True):
        brokers.setdefault(reason, []).append(address)
    return Refused("; ".join(f"{', '.join(those)} {reason}" for reason, those in brokers.items()))


async def _reason(kafka: KafkaSettings, address: str, options: Mapping[str, Any]) -> str:
    host, _, port = address.rpartition(":")
    try:
        connection = await create_conn(host, int(port), request_timeout_ms=_TIMEOUT_MS, **options)
        try:
            await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except (KafkaError, OSError) as error:  # a timeout is an OSError
        # Where a connection ends while an answer is awaited, aiokafka wraps what ended it.
        ended_by = error.__cause__ if isinstance(error, KafkaConnectionError) else error
        return _told(kafka, ended_by or error)
    return "answers by now"


def _told(kafka: KafkaSettings, error: BaseException) -> str:
    match error:
        case SaslAuthenticationFailed():
            keys = "kafka_sasl_user, kafka_sasl_password and kafka_sasl_mechanism"
            return f"refuses the user {kafka.sasl_user!r} with {kafka.sasl_mechanism} ({error.args[0]}): check {keys}"
        case UnsupportedSaslMechanismError():
            return f"does not know {kafka.sasl_mechanism}: check kafka_sasl_mechanism"
        case IllegalSaslStateError():
            return f"asks for no user at that port: check kafka_security, now {kafka.security}, and the port"
        case ssl.SSLCertVerificationError():
            keys = "kafka_ca_file, and that kafka_bootstrap has the names that stand in certificates"
            return f"shows a certificate that is not believed ({error.verify_message}): check {keys}"
        case ssl.SSLError() if "ALERT" in str(error.reason):
            shown = "the certificate that we show" if kafka.certificate_file else "us without a certificate"
            return f"refuses {shown} ({error.reason}): check kafka_certificate_file and kafka_key_file"
        case ssl.SSLError() | asyncio.IncompleteReadError() | ConnectionResetError():
            return (
                f"hangs up: it may expect TLS or a user there; check kafka_security, now {kafka.security}, and the port"
            )
        case TimeoutError():
            return "does not answer: check kafka_bootstrap, and that it runs"
        case OSError():
            said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # of names: below 0
            return f"cannot be reached ({said or error}): check kafka_bootstrap, and that it runs"
    return f"lets nobody in: {error!r}"
