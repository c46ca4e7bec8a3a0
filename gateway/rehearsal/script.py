"""What a device does when, as columns of the simulation and as one session after the other: there and back.

* Clients that have lived a script say when they really did each thing, so that the simulation lives just that.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from msgspec import Struct

from gateway.client.fleet.simulation.workload import Lives


class Session(Struct):
    """From a launch to the moment in which the app is left, or crashes."""

    launched: float
    left: float
    online: bool
    crashed: bool
    decided: list[float]


def sessions_of(lives: Lives, device: int) -> Iterator[Session]:
    """Yield one device's sessions in order."""
    for number in range(lives.first_session[device], lives.first_session[device + 1]):
        decisions = slice(lives.first_decision[number], lives.first_decision[number + 1])
        yield Session(
            launched=float(lives.launched[number]),
            left=float(lives.left[number]),
            online=bool(lives.online[number]),
            crashed=bool(lives.crashed[number]),
            decided=lives.decided[decisions].tolist(),
        )


def lives_of(devices: Sequence[Sequence[Session]], until: float) -> Lives:
    """Put the sessions of every device into columns, as far as they go `until` the end: a slow machine goes past it."""
    begun = [[session for session in sessions if session.launched < until] for sessions in devices]
    every = [session for sessions in begun for session in sessions]
    decided = [[at for at in session.decided if at < until] for session in every]
    return Lives(
        devices=len(devices),
        first_session=_starts([len(sessions) for sessions in begun]),
        launched=np.array([session.launched for session in every], np.float64),
        left=np.array([min(session.left, until) for session in every], np.float64),
        online=np.array([session.online for session in every], np.bool_),
        crashed=np.array([session.crashed for session in every], np.bool_),
        first_decision=_starts([len(each) for each in decided]),
        decided=np.array([at for each in decided for at in each], np.float64),
    )


def _starts(counts: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([0, *accumulate(counts)], np.int64)
