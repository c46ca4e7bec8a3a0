"""Judge what time it is, for everything that expires: neither the gateway nor a broken clock may say so alone.

* Time never goes before `floor_ms`: when the app was built, when the newest document that counts was issued, and the
  highest time on which the device and a gateway have agreed.
* The device's clock is believed unless it is years past that floor. A clock that is off by less than that and by more
  than a certificate lasts makes no TLS connection anyway.
* Only against such a clock does the gateway's time count, and only if it is not before the floor: a gateway that lies
  makes expire what has not, never the other way round.
* Pure.
"""

from typing import Final

_DAY_MS: Final = 86_400_000
# As old as a build can get before its floor no longer tells a true clock from a false one.
_PLAUSIBLE_MS: Final = 2 * 365 * _DAY_MS
# When this client was made: the floor of an app that does not say when it was built itself.
BUILT_MS: Final = 1_793_491_200_000


def judged(device_ms: int, server_ms: int | None, floor_ms: int) -> int:
    """Return the time by which documents expire; `server_ms` is None where no gateway is asked."""
    plausible = device_ms <= floor_ms + _PLAUSIBLE_MS
    if plausible or server_ms is None or server_ms < floor_ms - _DAY_MS:
        return max(device_ms, floor_ms)
    return max(min(device_ms, server_ms + _DAY_MS), floor_ms)


def agreed(device_ms: int, server_ms: int) -> int:
    """Return the highest time that both vouch for: neither can raise the mark alone."""
    return min(device_ms, server_ms)
