"""What a campaign prints at its end: the faults by kind, and what came of it."""

from collections.abc import Sequence

from rich.table import Table

from tests.campaign.readback import Spans
from tests.campaign.schedule import ZOMBIE_SECONDS, Fault
from tests.campaign.verdict import Verdict


def faults(planned: Sequence[Fault]) -> Table:
    alone = sum(fault.alone for fault in planned)
    title = f"{len(planned)} faults: {alone} alone, {len(planned) - alone} among others"
    table = Table("target", "faults", "kinds", title=title)
    for target in sorted({fault.target for fault in planned}):
        kinds = [_told(fault) for fault in planned if fault.target == target]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        table.add_row(target, str(len(kinds)), counted)
    table.add_section()
    for kind in sorted({_told(fault) for fault in planned}):
        hit = [fault for fault in planned if _told(fault) == kind]
        table.add_row("all", str(len(hit)), kind)
    return table


def _told(fault: Fault) -> str:
    """Name what was done; a consumer that is stopped for so long comes back as a zombie."""
    return "stop past its session" if fault.kind == "stop" and fault.seconds >= ZOMBIE_SECONDS else fault.kind


def outcome(verdict: Verdict, spans: Spans, *, unpacked: bool) -> Table:
    table = Table("what", "count", "wrong", title="What came of it")
    rows: list[tuple[str, object, str]] = [
        ("batches acknowledged", verdict.batches, _wrong(unanswered=verdict.unanswered)),
        ("events acknowledged", verdict.events, _wrong(lost=verdict.lost)),
        ("rows stored", verdict.stored, _wrong(doubled=verdict.doubled, never_sent=verdict.strange)),
        ("events refused", verdict.refused, _wrong(wrongly=verdict.wrongly_refused)),
        ("bodies refused", verdict.malformed, ""),
        (
            "dead letters",
            verdict.letters,
            _wrong(lost=verdict.letters_lost, doubled=verdict.letters_doubled, of_nothing=verdict.letters_strange),
        ),
        ("groups of the rollup", "all", _wrong(other_than_the_rows=verdict.rollups_wrong)),
        ("devices' ledgers", "all", _wrong(do_not_add_up=verdict.ledgers_wrong)),
        ("batches sent again, and answered", verdict.resends, _wrong(otherwise=verdict.answered_otherwise)),
        ("records that nobody took", "", _wrong(left=verdict.left)),
    ]
    if unpacked:
        counts = f"{verdict.unpacked}, {verdict.unpacked_again} of them again, past the window as promised"
        rows.append(("events unpacked", counts, _wrong(lost=verdict.unpacked_lost, doubled=verdict.unpacked_doubled)))
    rows.append(("longest wait of a device for its answer, its own faults included", _seconds(verdict), ""))
    rows.append(("span of received_at, stamped by gateways", f"{spans.received_days} days", ""))
    rows.append(("span of planned_at, stamped by ClickHouse", f"{spans.planned_hours} hours", ""))
    if unpacked:
        rows.append(("span of records' times, stamped by brokers", f"{spans.appended_hours} hours", ""))
    for what, count, wrong in rows:
        table.add_row(what, str(count), wrong)
    return table


def _seconds(verdict: Verdict) -> str:
    return f"{verdict.longest_wait_seconds:.1f} s"


def _wrong(**counts: int) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
