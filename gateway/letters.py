"""The dead letters of a batch: one for each refused event, cut where a batch refuses more than a real one could.

* Ten kilobytes that inflate to megabytes of refused events must not fill the log; the batch's own record has all of it.
"""

from gateway.decode import Decoded
from gateway.log_bounds import LETTER_CHARACTERS, LETTERS_CHARACTERS
from schemas.records import BatchHeaders, DeadLetter, Record, dead_letter_record


def event_letters(about: BatchHeaders, decoded: Decoded) -> list[Record]:
    """Return the records to publish with the batch's own."""
    longest = max(LETTER_CHARACTERS, LETTERS_CHARACTERS // max(1, len(decoded.refused)))
    return [
        dead_letter_record(
            DeadLetter(
                app=about.app,
                received_at=about.received_at,
                device=decoded.envelope.device,
                batch=about.batch,
                index=refused.refusal.index,
                reason=refused.refusal.reason,
                encoding="json",
                body=refused.text[:longest],
            )
        )
        for refused in decoded.refused
    ]
