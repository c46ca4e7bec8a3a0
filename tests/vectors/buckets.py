"""Write `schemas/vectors/buckets.json`: which bucket and which arm a device falls into, by which hash.

* `python -m tests.vectors.buckets` writes the file again; a test compares it with what this makes.
* Everything is computed from the contract's words with nothing but hashlib: never taken from the code that it judges.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).resolve().parents[2] / "schemas" / "vectors"

Json = dict[str, Any]


def device_id(number: int) -> str:
    digits = sha256(f"device {number}".encode()).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def leading_bits(*parts: str) -> int:
    """The first 8 bytes of the SHA-256 of the parts joined by 0x1F, big-endian."""
    return int.from_bytes(sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def fraction(bits: int) -> float:
    return (bits // 2**11) / 2**53


def three_arms(*weights: float) -> list[Json]:
    named = zip(("champion", "challenger", "baseline"), (41, 42, "none"), weights, strict=True)
    return [{"name": name, "use": use, "weight": weight} for name, use, weight in named]


def bucket_case(salt: str, device: str) -> Json:
    bits = leading_bits(salt, device)
    return {"salt": salt, "device": device, "first_8_bytes": f"{bits:016x}", "bucket": fraction(bits)}


def arm_case(salt: str, device: str, arms: list[Json]) -> Json:
    place, end, chosen = fraction(leading_bits(salt, device, "arm")), 0.0, ""
    for arm in arms:
        if arm["weight"] > 0 and not (chosen and place < end):
            end, chosen = end + arm["weight"], arm["name"]
    return {"salt": salt, "device": device, "place": place, "arms": arms, "arm": chosen}


def buckets() -> Json:
    about = (
        "bucket: SHA-256 of the UTF-8 text salt + 0x1F + device; of its first 8 bytes, big-endian, the upper 53 bits "
        "as a fraction of 2^53, which every double holds exactly. A device is in while bucket < exposure. arm: "
        "the same of salt + 0x1F + device + 0x1F + 'arm' is the device's place; weights are added up in list order, "
        "arms of weight 0 left out, and the first arm whose sum is above the place is the device's; the last one takes "
        "what rounding leaves."
    )
    salts = ("upsell-9", "", "Größe 📱", "a" * 200)
    weights = ((0.45, 0.45, 0.1), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.5, 0.5), (0.33, 0.33, 0.34))
    return {
        "about": about,
        "buckets": [bucket_case(salt, device_id(n)) for salt in salts for n in range(8)],
        "arms": [arm_case("upsell-9", device_id(n), three_arms(*w)) for w in weights for n in range(8)],
    }


def device_where(wanted: Callable[[float, float], bool], salt: str = "upsell-9") -> str:
    """Return the first device whose bucket and whose place among the arms are as wanted."""
    for number in range(100_000):
        device = device_id(number)
        if wanted(fraction(leading_bits(salt, device)), fraction(leading_bits(salt, device, "arm"))):
            return device
    raise LookupError("no such device among the first 100,000")


CHALLENGER: Final = device_where(lambda bucket, place: bucket < 0.05 and 0.45 <= place < 0.9)
CHAMPION: Final = device_where(lambda bucket, place: bucket < 0.05 and place < 0.45)
# Held out by the model's own salt, whatever the rollout's says; and one that is in the rollout beside them.
HELD: Final = device_where(lambda bucket, place: bucket < 0.05 and place < 0.1, "shop/upsell/baseline")
HELD_LATER: Final = device_where(lambda bucket, place: bucket >= 0.5 and place < 0.1, "shop/upsell/baseline")
BASELINE: Final = device_where(lambda bucket, place: bucket < 0.05 and place >= 0.9)
# By the weights alone it would be the challenger's; scaled to what the baseline leaves it is the champion's.
BESIDE_HELD: Final = next(
    device
    for device in map(device_id, range(100_000))
    if fraction(leading_bits("upsell-9", device)) < 0.05
    and 0.46 <= fraction(leading_bits("upsell-9", device, "arm")) < 0.49
    and fraction(leading_bits("shop/upsell/baseline", device, "arm")) >= 0.1
)
OUTSIDE: Final = device_where(lambda bucket, place: bucket >= 0.5)


def rendered(vectors: Json) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DIRECTORY / "buckets.json").write_text(rendered(buckets()), encoding="utf-8")
