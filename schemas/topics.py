"""The names of the topics on the log, whichever log it is."""

from typing import Final

BATCHES: Final = "batches"
DEAD_LETTERS: Final = "dead_letters"
TOPICS: Final = (BATCHES, DEAD_LETTERS)
