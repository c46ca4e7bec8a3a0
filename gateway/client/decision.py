"""From a score to a decision, now and then at random so that training data is not blind to what the model avoids.

* Pure: the dice are a parameter.
* The propensity is the chance that this decision would be taken again for this score. With explore chance e, the
  threshold decides with 1 - e and a fair coin with e, so it is 1 - e/2 for the threshold's own answer and e/2 for the
  other one, whoever decided this time.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from schemas.releases import Parameters

# What is recorded of a score. More digits say nothing of a model and compress badly: they were a sixth of a batch.
SCORE_DIGITS: Final = 6


class Decision(Struct, frozen=True, gc=False):
    """Yes or no, whether the coin said so, and the chance of saying it."""

    yes: bool
    explored: bool
    propensity: float


def decide(score: float, parameters: Parameters, roll: Callable[[], float]) -> Decision:
    """Decide on a score; `roll` gives a number in [0, 1)."""
    own = score >= parameters.threshold
    explored = parameters.explore > 0.0 and roll() < parameters.explore
    yes = roll() < 0.5 if explored else own
    half = parameters.explore / 2
    return Decision(yes, explored, 1.0 - half if yes == own else half)
