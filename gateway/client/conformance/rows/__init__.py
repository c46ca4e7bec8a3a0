"""The rows: the thirty of the device's conformance table by their numbers, then the contract's answers (A1...)."""

from typing import Final

from gateway.client.conformance.results import Row, Rows
from gateway.client.conformance.rows import answers, downloads, models, store, trust
from gateway.client.conformance.world import World

TABLE: Final = 30


def _order(row: Row[World]) -> tuple[bool, int]:
    return not row.name.isdigit(), int(row.name.lstrip("A"))


ROWS: Final = Rows[World]()
ROWS.rows = sorted([row for part in (downloads, models, store, trust, answers) for row in part.ROWS.rows], key=_order)
