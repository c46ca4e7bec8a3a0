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

from gateway.client.limits import Limits

_DAY_MS: Final = 86_400_000
# When this client was made: the floor of an app that does not say when it was built itself.
BUILT_MS: Final = 1_793_491_200_000


def judged(device_ms: int, server_ms: int | None, floor_ms: int, limits: Limits) -> int:
    """Return the time by which documents expire; `server_ms` is None where no gateway is asked."""
    tolerance_ms = limits.clock_tolerance_days * _DAY_MS
    plausible = device_ms <= floor_ms + limits.clock_plausible_days * _DAY_MS
    if plausible or server_ms is None or server_ms < floor_ms - tolerance_ms:
        return max(device_ms, floor_ms)
    return max(min(device_ms, server_ms + tolerance_ms), floor_ms)


def agreed(device_ms: int, server_ms: int) -> int:
    """Return the highest time that both vouch for: neither can raise the mark alone."""
    return min(device_ms, server_ms)
