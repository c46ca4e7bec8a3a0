"""What the fleet's phones are, and when their users open the app: drawn from a seed, the same every time.

* A tenth have an old SDK, so that a release they cannot run must pass them by; a few have an app build with a bug that
  makes the gateway refuse some of their events; a few have a wrong clock.
* Launches come at random in waking hours of the phone's own time zone; light, medium and heavy users average 3.5 a day.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

LAUNCHES_PER_DAY: Final = 3.5
CURRENT_SDK: Final = "2.3.0"
OLD_SDK: Final = "2.2.4"

_CURRENT_APP: Final = "5.1.0"
# What users of the current build get in an app update.
NEXT_APP: Final = "5.2.0"
BUGGY_APP: Final = "5.0.3"
_OLD_APP: Final = "4.9.2"
# Share of users and launches a day; the shares weighted by the launches give LAUNCHES_PER_DAY.
_HABITS: Final = ((0.6, 1.5), (0.3, 4.5), (0.1, 12.5))
_TIME_ZONES_HOURS: Final = (-8, -5, -3, 0, 1, 3, 8, 9)
_MODELS: Final = (
    ("iOS 19.1", "iPhone17,3"),
    ("iOS 18.6", "iPhone15,3"),
    ("iOS 17.7", "iPhone12,1"),
    ("Android 16", "Pixel 9"),
)
_LOCALES: Final = ("en_US", "de_AT", "fr_FR", "ja_JP", "pt_BR")
_WAKE_HOUR: Final = 7
_SLEEP_HOUR: Final = 23
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_WAKING: Final = (_SLEEP_HOUR - _WAKE_HOUR) * _HOUR
# Without network: a journey or an empty data plan.
SPELL_SECONDS: Final = (0.5 * _DAY, 2 * _DAY)
_WRONG_CLOCK_SHARE: Final = 0.05
_WRONG_BY_SECONDS: Final = 6 * _HOUR


@dataclass(frozen=True)
class Phone:
    """One phone, its app and its user's habits."""

    index: int
    sdk: str
    app_version: str
    os: str
    hardware: str
    locale: str
    launches_per_day: float
    utc_offset_seconds: float
    clock_error_seconds: float
    has_percent_bug: bool


def phone(seed: int, index: int) -> Phone:
    """Draw the phone with this number. Every tenth has the old SDK, every twentieth the buggy app build."""
    dice = Random(f"phone {seed} {index}")  # noqa: S311 - a seeded draw, no secret
    is_old, has_bug = index % 10 == 3, index % 20 == 7
    system, hardware = dice.choice(_MODELS)
    (launches,) = dice.choices([rate for _, rate in _HABITS], [share for share, _ in _HABITS])
    has_wrong_clock = dice.random() < _WRONG_CLOCK_SHARE
    return Phone(
        index=index,
        sdk=OLD_SDK if is_old else CURRENT_SDK,
        app_version=_OLD_APP if is_old else BUGGY_APP if has_bug else _CURRENT_APP,
        os=system,
        hardware=hardware,
        locale=dice.choice(_LOCALES),
        launches_per_day=launches,
        utc_offset_seconds=dice.choice(_TIME_ZONES_HOURS) * _HOUR,
        clock_error_seconds=dice.gauss(0.0, _WRONG_BY_SECONDS) if has_wrong_clock else 0.0,
        has_percent_bug=has_bug,
    )


def updated(phone: Phone) -> Phone:
    """Return the phone after an app update; builds that the store no longer updates stay as they are."""
    return replace(phone, app_version=NEXT_APP) if phone.app_version == _CURRENT_APP else phone


def seconds_to_launch(phone: Phone, now_seconds: float, dice: Random) -> float:
    """Draw how long until the next launch: exponential in waking time, asleep in between."""
    waking = dice.expovariate(phone.launches_per_day / _WAKING)
    time_of_day = (now_seconds + phone.utc_offset_seconds) % _DAY
    wait = 0.0
    if not _WAKE_HOUR * _HOUR <= time_of_day < _SLEEP_HOUR * _HOUR:
        wait = (_WAKE_HOUR * _HOUR - time_of_day) % _DAY
        time_of_day = _WAKE_HOUR * _HOUR
    left_today = _SLEEP_HOUR * _HOUR - time_of_day
    if waking < left_today:
        return wait + waking
    nights, rest = divmod(waking - left_today, _WAKING)
    return wait + left_today + nights * _DAY + (_DAY - _WAKING) + rest
