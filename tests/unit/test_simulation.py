"""The simulated fleet: its rules are the client's, its books balance, and it finds what it was built to find."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main
from gateway.client import policy
from gateway.client.fleet.simulation import rules
from gateway.client.fleet.simulation.engine import Fleet
from gateway.client.fleet.simulation.gateways import SteadyGateway
from gateway.client.fleet.simulation.outage import Outage, OutageReport, live, sessions_until_heard, simulate_outage
from gateway.client.fleet.simulation.policies import BACKHAUL, NAIVE, POLICIES, SDK_DEFAULT
from gateway.client.fleet.simulation.run import CHUNK_DEVICES, simulate
from gateway.client.fleet.simulation.surge import simulate_surge
from gateway.client.fleet.simulation.tallies import Histogram, Tallies
from gateway.client.fleet.simulation.targets import Target, targets
from gateway.client.fleet.simulation.workload import Workload, draw_lives
from schemas.wire import Flush


@given(
    events=st.integers(1, 500),
    seconds=st.integers(1, 10_000),
    queued=st.integers(0, 1000),
    age_seconds=st.floats(-2, 1e5),
)
def test_due_in_is_the_clients(events: int, seconds: int, queued: int, age_seconds: float) -> None:
    found = rules.due_in(np.array([events]), np.array([float(seconds)]), np.array([queued]), np.array([age_seconds]))
    wanted = policy.due_in(Flush(events, seconds, 1), queued=queued, age_seconds=age_seconds)
    assert found[0] == (np.inf if wanted is None else wanted)


@given(
    lease_seconds=st.integers(1, 10**6), queued=st.integers(0, 3), now=st.integers(0, 10**6), ago=st.integers(0, 10**6)
)
def test_should_call_is_the_clients(lease_seconds: int, queued: int, now: int, ago: int) -> None:
    contact = now - ago
    found = rules.should_call(
        np.array([float(lease_seconds)]), np.array([queued]), np.array([float(now)]), np.array([float(contact)])
    )
    flush = Flush(50, 300, lease_seconds)
    assert found[0] == policy.should_call(flush, queued=queued, now_ms=now * 1000, contact_ms=contact * 1000)


@given(
    failures=st.integers(0, 100),
    first_seconds=st.floats(0.1, 100),
    last_seconds=st.floats(100, 1e5),
    roll=st.floats(0, 1, exclude_max=True),
)
def test_backoff_is_the_clients(failures: int, first_seconds: float, last_seconds: float, roll: float) -> None:
    found = rules.backoff(np.array([failures]), first_seconds, last_seconds, np.array([roll]))
    assert found[0] == pytest.approx(policy.backoff(failures, first_seconds, last_seconds, roll))


@pytest.mark.parametrize("name", POLICIES)
def test_every_event_is_delivered_or_waits_and_a_seed_gives_the_same_again(name: str) -> None:
    found = []
    for _ in range(2):
        simulated, tallies = simulate(Workload(days=3), 300, [POLICIES[name]], 7)
        tally = tallies[name]
        assert 0 <= tally.waiting < tally.delivered
        assert tally.delivered == tally.latencies.settle().sum()
        assert tally.dropped == 0
        found.append(simulated)
    assert found[0] == found[1]


def test_lives_come_in_order_and_within_their_time() -> None:
    workload = Workload(days=2.5, decisions_per_day=50)
    lives = draw_lives(workload, 500, np.random.default_rng(1))
    owner = np.repeat(np.arange(500), np.diff(lives.first_session))
    same = owner[1:] == owner[:-1]
    assert (lives.launched[1:][same] >= lives.left[:-1][same]).all()
    session = np.repeat(np.arange(len(lives.launched)), np.diff(lives.first_decision))
    assert ((lives.decided >= lives.launched[session]) & (lives.decided <= lives.left[session])).all()
    assert lives.launched.max() < workload.seconds
    assert len(lives.launched) / (500 * 2.5) == pytest.approx(3.5, rel=0.15)
    assert len(lives.decided) / len(lives.launched) == pytest.approx(50 / 3.5, rel=0.02)


def test_a_spell_without_network_begins_at_a_launch_and_lasts_for_days() -> None:
    usual, spells = Workload(days=30, offline_sessions=0.0), 0.02
    workload = replace(usual, offline_spells=spells)
    before, after = (draw_lives(each, 400, np.random.default_rng(1)) for each in (usual, workload))
    assert before.online.all()
    owner = np.repeat(np.arange(400), np.diff(after.first_session))
    began = np.flatnonzero(~after.online & np.append(True, after.online[:-1] | (np.diff(owner) > 0)))
    assert len(began) < spells * len(owner) < (~after.online).sum()
    soon = np.searchsorted(owner * 1e9 + after.launched, owner[began] * 1e9 + after.launched[began] + 43_000)
    assert all(not after.online[first:last].any() for first, last in zip(began, soon, strict=True))


def test_what_a_crash_leaves_unsaid_waits_for_the_next_launch_and_is_not_lost() -> None:
    usual = Workload(days=4, offline_sessions=0.0)
    whole, _ = simulate(usual, 2000, [BACKHAUL], 1)
    broken, tallies = simulate(replace(usual, crashed_sessions=0.5), 2000, [BACKHAUL], 1)
    before, after = whole.policies[BACKHAUL.name], broken.policies[BACKHAUL.name]
    assert before.outcome_latency_p95_hours is not None
    assert after.outcome_latency_p95_hours is not None
    assert after.outcome_latency_p95_hours > 3 * before.outcome_latency_p95_hours
    assert tallies[BACKHAUL.name].dropped == 0
    assert after.requests_per_device_day < before.requests_per_device_day, "what waits rides with the next launch"


def test_a_device_without_network_keeps_what_its_queue_holds_and_counts_the_rest() -> None:
    workload = Workload(days=40, decisions_per_day=200, offline_sessions=1.0)
    tally = Tallies(workload)
    dice = np.random.default_rng(1)
    fleet = Fleet(draw_lives(workload, 20, dice), workload, BACKHAUL, SteadyGateway(BACKHAUL), tally, dice)
    fleet.advance(workload.seconds)
    fleet.finish()
    queued = fleet.queued(np.arange(20))
    assert tally.requests == 0
    assert queued.max() == 1000
    assert tally.dropped > 0
    # Sessions at the very end may outlast the time that was lived.
    assert queued.sum() <= tally.waiting <= queued.sum() + 1000


def test_the_default_policy_costs_and_brings_what_it_should() -> None:
    # Half of the devices learn as soon as under polling but for the dice: of 8000, within a hundredth of each other.
    simulated, _ = simulate(Workload(), 20_000, [BACKHAUL, NAIVE, SDK_DEFAULT], 1)
    ours, naive, sdk = simulated.policies.values()
    assert ours.requests_per_device_day <= 4.3
    assert ours.requests_per_device_day <= 0.33 * naive.requests_per_device_day
    assert ours.requests_per_device_day <= 0.47 * sdk.requests_per_device_day
    assert ours.outcome_latency_p95_hours is not None
    assert ours.outcome_latency_p95_hours < 2
    for mine, polled in (
        (ours.learn_p50_hours, naive.learn_p50_hours),
        (ours.learn_p95_hours, naive.learn_p95_hours),
    ):
        assert mine is not None
        assert polled is not None
        assert mine <= polled


def test_many_decisions_cost_hardly_more() -> None:
    simulated, _ = simulate(Workload(decisions_per_day=53, days=4), 4000, [BACKHAUL, NAIVE], 1)
    ours, naive = simulated.policies.values()
    assert ours.requests_per_device_day <= 4.9
    assert ours.requests_per_device_day <= 0.09 * naive.requests_per_device_day


def test_a_short_lease_on_trial_is_cheap_and_stops_fast() -> None:
    simulated, _ = simulate(Workload(days=4), 8000, [BACKHAUL, POLICIES["trial_lease"]], 1)
    everyone, trial = simulated.policies.values()
    assert trial.requests_per_device_day < everyone.requests_per_device_day
    assert trial.stopped_release_decisions < 0.6 * everyone.stopped_release_decisions


def test_after_an_outage_the_control_flattens_the_wave_and_nobody_starves() -> None:
    """A peak of 20,000 devices is that of 25 minutes, which hold as many requests as the five of 100,000 do; those cost
    20 seconds of processor, and `python -m tests.fleet simulate` holds them to the same 1.3."""
    reports = simulate_outage(BACKHAUL, Workload(), 20_000, 1.0, 1)
    free, controlled = reports["without_control"], reports["with_control"]
    assert controlled.peak_over_steady <= 1.3 < free.peak_over_steady
    assert controlled.first_hour_over_steady < free.first_hour_over_steady
    assert 0 < controlled.refused_share < 0.15
    assert controlled.starving_devices == 0
    assert controlled.events_lost == free.events_lost == 0


def test_in_a_surge_the_control_takes_what_is_budgeted_and_loses_nothing() -> None:
    free, controlled = simulate_surge(BACKHAUL, Workload(), 8000, 1).values()
    assert free.taken_over_budget > 1.35
    assert controlled.taken_over_budget < 1.15
    assert controlled.came_over_budget < free.came_over_budget - 0.1
    assert (controlled.told_seconds_most, controlled.told_lease_hours_most) == (4 * BACKHAUL.seconds, 24)
    assert controlled.events_lost == 0


def test_a_refresh_in_the_background_teaches_sooner_and_wakes_only_who_is_asleep() -> None:
    policies = [BACKHAUL, POLICIES["backhaul_refresh"], NAIVE, POLICIES["naive_refresh"]]
    simulated, tallies = simulate(Workload(days=4), 3000, policies, 1)
    for plain, refreshed, most in ((BACKHAUL.name, "backhaul_refresh", 2.0), (NAIVE.name, "naive_refresh", 6.1)):
        before, after = simulated.policies[plain], simulated.policies[refreshed]
        assert before.learn_p50_hours is not None
        assert after.learn_p50_hours is not None
        assert after.learn_p50_hours < 0.85 * before.learn_p50_hours
        assert 0 < after.requests_per_device_day - before.requests_per_device_day < most
        assert tallies[refreshed].learned.settle().sum() <= tallies[refreshed].used.settle().sum()


def test_chunks_that_processes_share_add_up() -> None:
    seen: list[int] = []
    simulated, tallies = simulate(Workload(days=0.1), CHUNK_DEVICES + 50, [BACKHAUL], 1, seen.append)
    assert seen == [CHUNK_DEVICES, CHUNK_DEVICES + 50]
    tally = tallies[BACKHAUL.name]
    assert tally.devices == simulated.devices == CHUNK_DEVICES + 50
    assert tally.latencies.settle().sum() == tally.delivered == tally.produced - tally.waiting


def test_a_target_says_whether_it_was_reached() -> None:
    simulated, _ = simulate(Workload(), 500, [BACKHAUL, NAIVE, SDK_DEFAULT], 1)
    outage = OutageReport(
        peak_over_steady=1.31,
        first_hour_over_steady=1.2,
        refused_share=0.0,
        sessions_until_heard_mean=1.0,
        sessions_until_heard_most=2,
        starving_devices=0,
        events_lost=0,
    )
    found = {each.name: each for each in targets(simulated, (3.5, 10.5), {"with_control": outage})}
    assert len(found) == 9
    assert not found["peak after the outage / steady"].reached
    assert found["starving devices after it"].reached
    assert len(list(targets(simulated, (3.5, 53.0), None))) == 5
    assert next(targets(simulated, (3.0, 9.0), None)).most == 2
    assert not Target("never heard of it", 7.0, None).reached
    assert None not in [each.reached for each in found.values()]


def test_a_run_too_short_for_a_target_shows_its_figure_and_judges_only_what_is_a_run_of_its_own() -> None:
    simulated, _ = simulate(Workload(days=2), 300, [BACKHAUL, NAIVE, SDK_DEFAULT], 1)
    outage = OutageReport(
        peak_over_steady=1.2,
        first_hour_over_steady=1.2,
        refused_share=0.0,
        sessions_until_heard_mean=1.0,
        sessions_until_heard_most=2,
        starving_devices=1,
        events_lost=0,
    )
    found = list(targets(simulated, (3.5, 10.5), {"with_control": outage}))
    assert [each.reached for each in found] == [None] * 6 + [True, False, True]
    assert found[0].found == simulated.policies[BACKHAUL.name].requests_per_device_day


def test_who_is_never_taken_starves_but_not_who_was_lost_on_the_way() -> None:
    usual = Workload(days=2.5, stopped_share=0.1, offline_sessions=0.0)
    starving = []
    for lost in (0.0, 1.0):
        workload = replace(usual, lost_requests=lost)
        lives = draw_lives(workload, 300, np.random.default_rng(1))
        never = Outage(SteadyGateway(BACKHAUL), 0.0, workload.seconds, None, np.random.default_rng(1))
        _, fleet = live(lives, workload, BACKHAUL, never, None, 1)
        starving.append(sessions_until_heard(lives, workload, fleet)[1])
    refused, unlucky = starving
    assert refused > 150
    assert unlucky < refused / 3


def test_a_percentile_is_exact_to_a_bin_and_counts_who_never_got_there() -> None:
    histogram = Histogram(1.0, 100.0)
    histogram.add(np.arange(100.0))
    assert histogram.percentile(50) == pytest.approx(50)
    assert histogram.percentile(50, of=150) == pytest.approx(75)
    assert histogram.percentile(95, of=150) is None
    assert Histogram(1.0, 10.0).percentile(50) is None


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    words = "fleet simulate --devices 200 --days 2 --launches 4 --decisions 8 --seed 3 --flush-seconds 60 --json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["policies"]) == ["backhaul", "naive", "sdk_default", "sdk_cached", "backhaul_in_rollout"]
    figures = found["policies"]["backhaul"]
    wanted = {"requests_per_device_day", "outcome_latency_p95_hours", "learn_p50_hours", "learn_p95_hours"}
    assert wanted | {"stopped_release_decisions"} <= set(figures)
    assert len(figures["requests_per_second_by_hour"]) == 24
    assert found["targets"][0]["name"] == "outcome latency p95, hours"
    assert "outage" not in found


def test_the_command_prints_tables_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = f"fleet simulate --devices 200 --days 2 --policies naive,lease_1h --plots {tmp_path}"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "requests per device day" in printed
    assert "judged from 8 days on" in printed
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["latency.svg", "learning.svg", "rate.svg", "requests.svg", "stopped.svg", "wake-ups.svg"]


def test_an_unknown_policy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "simulate", "--policies", "telepathy"]) == 2
    assert "no policy is called 'telepathy'" in capsys.readouterr().err


def test_a_longer_interval_never_costs_more() -> None:
    policies = [replace(BACKHAUL, name=str(seconds), seconds=seconds) for seconds in (30, 300, 3000)]
    simulated, _ = simulate(Workload(days=3), 2000, policies, 1)
    costs = [report.requests_per_device_day for report in simulated.policies.values()]
    assert costs == sorted(costs, reverse=True)
