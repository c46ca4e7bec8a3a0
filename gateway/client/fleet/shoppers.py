"""What the fleet's users are like: the signals an app sees, and how likely each user really is to buy.

* Pure: the dice are a parameter, so that a seed gives the same people, decisions and purchases every time.
* The truth is known here and nowhere else: the example models are trained on draws from it, and the fleet's outcomes
  are drawn from it, so that a better model really sells more.
"""

import math
from random import Random
from typing import Final, NamedTuple

SIGNALS: Final = ("battery_level", "charging", "session_seconds", "items_viewed")
MODEL: Final = "upsell"
DISMISSED: Final = "Dismissed"
PURCHASED: Final = "Purchased"
PRICE: Final = 4.99
# Of those who would have bought when asked, how many buy unasked.
ORGANIC_SHARE: Final = 0.1


class Moment(NamedTuple):
    """What the app knows at a moment in which it may offer the upgrade, in the order of `SIGNALS`."""

    battery_level: float
    charging: float
    session_seconds: float
    items_viewed: float


def first_moment(dice: Random) -> Moment:
    """Draw the first moment of a session."""
    battery_level = round(dice.uniform(0.03, 1.0), 2)
    charging = float(dice.random() < 0.35)
    return next_moment(Moment(battery_level, charging, 0.0, 0.0), dice)


def next_moment(before: Moment, dice: Random) -> Moment:
    """Draw a later moment of the same session: time has passed and more has been looked at."""
    seconds = before.session_seconds + round(min(900.0, 1.0 + dice.lognormvariate(3.6, 0.8)))
    viewed = before.items_viewed + float(math.floor(dice.expovariate(1 / 1.8)))
    return before._replace(session_seconds=seconds, items_viewed=viewed)


def purchase_probability(moment: Moment) -> float:
    """Return the chance that this user buys when asked now: a logistic function of the four signals."""
    logit = (
        -6.3
        + 2.2 * moment.battery_level
        + 1.0 * moment.charging
        + 1.0 * math.log1p(moment.session_seconds / 30.0)
        + 0.35 * min(moment.items_viewed, 12.0)
    )
    return 1.0 / (1.0 + math.exp(-logit))
