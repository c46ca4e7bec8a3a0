"""The published figures, reproduced from the table of prices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli import main
from gateway.releases.costs import Price, Prices, bills, dollars

ROOT = Path(__file__).resolve().parents[2]
PRICES = msgspec.json.decode((ROOT / "deploy" / "prices.json").read_bytes(), type=Prices)
Cost = Callable[..., Any]


@pytest.fixture
def cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cost:
    monkeypatch.chdir(tmp_path)

    def _cost(*words: object) -> Any:
        assert main(["cost", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return _cost


def test_five_million_devices_and_a_megabyte_are_five_terabytes_450_dollars_on_s3_and_under_2_on_r2(cost: Cost) -> None:
    found = cost("--devices", 5_000_000, "--bytes", 1_000_000)
    assert found["gigabytes"] == {"identity": 5000.0}
    usd = {bill["provider"]: bill["usd"] for bill in found["providers"]}
    assert usd["s3"] == 450.0
    assert 0 < usd["r2"] < 2
    assert usd == {
        "s3": 450.0, "s3-with-requests": 452.0, "r2": 1.8, "cloudfront": 340.0, "fastly": 603.75, "bunny": 50.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (470_000, {"s3-with-requests": 213.5, "cloudfront": 114.75, "fastly": 285.75, "bunny": 23.5, "r2": 1.8}),
        (33_000, {"s3-with-requests": 16.85, "cloudfront": 0.0, "fastly": 50.0, "bunny": 1.65, "r2": 1.8}),
        (2_000, {"s3-with-requests": 2.9, "cloudfront": 0.0, "fastly": 50.0, "bunny": 0.1, "r2": 1.8}),
    ],
)
def test_smaller_downloads_cost_what_was_worked_out_by_hand(size: int, expected: dict[str, float]) -> None:
    found = {bill.provider: bill.usd for bill in bills(PRICES, 5_000_000, {"identity": size})}
    assert {provider: found[provider] for provider in expected} == expected


def test_devices_take_the_smallest_way_and_all_ways_stand_beside_it() -> None:
    [bill] = bills(Prices("", [Price("x", "X", 1.0, 0.0)]), 1000, {"identity": 3_000_000, "xz": 1_000_000})
    assert (bill.usd, bill.by_way) == (1.0, {"identity": 3.0, "xz": 1.0})


def test_what_is_free_is_taken_off_and_a_minimum_is_paid() -> None:
    price = Price("x", "X", 1.0, 1.0, free_gb=10, free_million_requests=1, minimum_usd=5)
    assert dollars(price, 1_000_000, 10_000) == 5
    assert dollars(price, 2_000_000, 10_000) == 11


def test_a_release_costs_what_its_downloads_weigh(
    cost: Cost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["app", "create", "shop"])
    main(["key", "generate", "k"])
    Path("one").write_bytes(bytes(range(256)) * 100)
    Path("two").write_bytes(bytes(range(256)) * 100 + b"more")
    for name in ("one", "two"):
        words = ["--app", "shop", "--model", "m", "--file", name, "--sdk", "", "--format", "opaque", "--sign", "k"]
        assert main(["release", "publish", *words]) == 0
    capsys.readouterr()
    found = cost("--devices", 1000, "--release", 2, "--from", 1)
    assert found["bytes"]["identity"] == 25_604
    assert found["bytes"]["zstd-patch"] < found["bytes"]["xz"] < 25_604
    assert found["inline"] is True
    assert {bill["usd"] for bill in found["providers"]} == {0.0}, "it rides in the replies: no CDN is asked"
    monkeypatch.setenv("BACKHAUL_INLINE_BYTES", str(found["bytes"]["zstd-patch"] - 1))
    found = cost("--devices", 1_000_000, "--release", 2, "--from", 1)
    assert found["inline"] is False
    usd = {bill["provider"]: bill["usd"] for bill in found["providers"]}
    assert usd["s3"] == round(found["bytes"]["zstd-patch"] * 0.09 / 1000, 2)
    assert usd["fastly"] == 50.0
    assert set(cost("--devices", 1000, "--release", 2)["bytes"]) == {"identity", "xz"}
    assert main(["cost", "--devices", "1", "--release", "1", "--from", "2"]) == 0
    assert "no patch from release 2 is published" in capsys.readouterr().err
    assert main(["cost", "--devices", "1", "--release", "9"]) == 2
    assert main(["cost", "--devices", "1", "--release", "2", "--from", "7"]) == 2
    assert main(["cost", "--devices", "1", "--bytes", "9", "--from", "1"]) == 2
    assert main(["cost", "--devices", "5000000", "--bytes", "1000000"]) == 0
    assert "$450.00" in capsys.readouterr().out


def test_another_table_of_prices_can_be_brought(cost: Cost, tmp_path: Path) -> None:
    mine = {"as_of": "2030-01-01", "providers": [
        {"provider": "mine", "name": "Mine", "usd_per_gb": 1, "usd_per_million_requests": 0},
    ]}  # fmt: skip
    Path("p.json").write_text(json.dumps(mine))
    found = cost("--devices", 1000, "--bytes", 1_000_000, "--prices", "p.json")
    assert [(bill["provider"], bill["usd"]) for bill in found["providers"]] == [("mine", 1.0)]
    Path("p.json").write_text("{}")
    assert main(["cost", "--devices", "1", "--bytes", "1", "--prices", "p.json"]) == 1
