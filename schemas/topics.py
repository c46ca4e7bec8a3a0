"""The names of the topics on the log, whichever log it is."""

from typing import Final

BATCHES: Final = "batches"
DEAD_LETTERS: Final = "dead_letters"
# What the gateway writes. The embedded log holds these two.
TOPICS: Final = (BATCHES, DEAD_LETTERS)
# One plain JSON event a record, on Kafka only: made from `batches` by a consumer.
EVENTS: Final = "events"
