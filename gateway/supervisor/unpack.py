"""The unpacking consumer's process: batches on Kafka on one side, the topic of plain events on the other."""

from typing import Final

from consumers import unpack
from consumers.ending import cancelled_after
from consumers.standing import Standing, keep_looking_at_kafka
from consumers.unpack import UnpackSettings
from gateway.config import Config
from gateway.supervisor.children import CannotGoOn, Told
from gateway.supervisor.members import work_as_member
from gateway.supervisor.numbers import showing
from schemas.topics import BATCHES, EVENTS

UNPACK: Final = "unpack"
# Of the grace: what the transactions in work may still take.
_STOP_SHARE: Final = 0.5


async def unpack_events(config: Config, told: Told) -> None:
    """Fill the topic of plain events until told to leave. Raises `CannotGoOn`."""
    kafka = config.kafka
    if kafka is None:
        raise CannotGoOn("there is nothing to unpack for without kafka_bootstrap")
    settings = UnpackSettings(
        range_records=config.unpack_range_records,
        range_bytes=config.unpack_range_bytes,
        resend_window_records=config.unpack_resend_window_records,
        transaction_seconds=config.unpack_transaction_seconds,
        stop_seconds=_STOP_SHARE * config.grace_seconds,
    )
    standing = Standing(UNPACK)
    async with showing(standing, config, None):
        with cancelled_after(keep_looking_at_kafka(standing, kafka, UNPACK, [BATCHES], told.leave)):
            await work_as_member(
                config,
                kafka,
                UNPACK,
                reads=[BATCHES],
                writes=[EVENTS],
                leave=told.leave,
                work=lambda source, stop: unpack.run(source, kafka, settings, stop, standing.observe),
                standing=standing,
            )
