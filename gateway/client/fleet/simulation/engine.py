"""Live a chunk of devices event by event, all of them at once.

* Every device steps from one of its own events to the next; no device waits for another's. `advance` stops them all at
  one moment, for a gateway that changes its mind.
* Devices do as `gateway.client` does, in the order in which it does it: a launch that calls, a timer by count and age
  that is set anew by every flush, silence while a wait lasts, the frozen batch first and again until it is taken.
* A decision is one event: its outcome is known before it is sent, nearly always.
* Decisions that change nothing (neither the first nor the last that a flush waits for) are not stepped through.
"""

from typing import Final

import numpy as np

from gateway.client.fleet.simulation import rules
from gateway.client.fleet.simulation.gateways import Answers, Gateway
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import Tallies
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Flags, Floats, Ints, Lives, Workload
from gateway.client.limits import Limits

# A radio stays awake that long after a request, at full power (LTE; Huang et al., MobiSys 2012).
_RADIO_TAIL_SECONDS: Final = 11.6
_SCRIPT, _DECISION, _TIMER, _CALL, _POLL, _REFRESH = range(6)


class Fleet:
    """A chunk of devices under one policy."""

    def __init__(
        self,
        lives: Lives,
        workload: Workload,
        policy: Policy,
        gateway: Gateway,
        tallies: Tallies,
        dice: np.random.Generator,
        limits: Limits | None = None,
    ) -> None:
        self._lives, self._workload, self._policy = lives, workload, policy
        self._gateway, self._tallies, self._dice = gateway, tallies, dice
        self._limits = limits or Limits()
        devices = lives.devices
        # Behind the last session stands one that never comes.
        self._launched = np.append(lives.launched, np.inf)
        # Longer than any life, so that one sorted column holds every device's times.
        self._period = float(lives.left.max(initial=workload.seconds)) + 1.0
        owner = np.repeat(np.arange(devices), np.diff(lives.first_decision[lives.first_session]))
        self._in_order = owner * self._period + lives.decided
        self._decided = np.append(lives.decided, np.inf)

        self._session = lives.first_session[:-1].copy()
        self._online, self._awake = np.zeros((2, devices), np.bool_)
        # The queue is the decisions head:tail, and before them those of the frozen batch.
        self._head = lives.first_decision[lives.first_session[:-1]].copy()
        self._tail = self._head.copy()
        self._last = self._head.copy()
        self._frozen = np.zeros(devices, np.bool_)
        self._frozen_from = np.zeros(devices, np.int64)
        self._frozen_to = np.zeros(devices, np.int64)
        self._armed_at = np.zeros(devices)
        self._wait_until = np.full(devices, -np.inf)
        self._failures = np.zeros(devices, np.int64)
        self.lost = np.zeros(devices, np.int64)
        self._contact = np.full(devices, -np.inf)
        self._polled = np.full(devices, -np.inf)
        self._radio = np.full(devices, -np.inf)
        self._events = np.full(devices, policy.events)
        self._seconds = np.full(devices, float(policy.seconds))
        self._lease = np.full(devices, float(policy.lease_seconds))
        self.on_trial: Flags = self._dice.random(devices) < policy.trial_share
        self.learned_at = np.full(devices, np.inf)
        self.told_at = np.full(devices, np.inf)

        self._at = np.full((6, devices), np.inf)
        self._at[_SCRIPT] = self._next_launch(np.arange(devices))
        if policy.refreshes_per_day:
            self._at[_REFRESH] = self._next_refresh(np.zeros(devices))
        self._next = self._at.min(axis=0)

    def advance(self, until: float) -> None:
        """Live until that moment."""
        live = np.flatnonzero(self._next < until)
        while len(live):
            self._step(live)
            live = live[self._next[live] < until]

    def finish(self) -> None:
        """Count what is known only at the end."""
        tallies, workload = self._tallies, self._workload
        everyone = np.arange(self._lives.devices)
        tallies.devices += len(everyone)
        tallies.produced += len(self._lives.decided)
        used = self._first_use_since(workload.published_seconds)
        tallies.used.add(used[np.isfinite(used)] - workload.published_seconds)
        # Of the devices that nobody opens any more, those that the system wakes learn of it too: not to be counted.
        learned = self.learned_at[np.isfinite(self.learned_at) & np.isfinite(used)]
        tallies.learned.add(learned - workload.published_seconds)
        trial = everyone[self.on_trial]
        told = np.minimum(self.told_at[trial], workload.seconds)
        tallies.running_stopped += len(trial)
        tallies.stopped_decisions += int(self.decided(trial, workload.stopped_seconds, told).sum())

    def queued(self, device: Ints) -> Ints:
        """Return how many events wait on each device, the frozen ones among them."""
        frozen = np.where(self._frozen[device], self._frozen_to[device] - self._frozen_from[device], 0)
        waiting: Ints = self._tail[device] - self._head[device] + frozen
        return waiting

    def decided(self, device: Ints, since: float, until: Floats) -> Ints:
        """Return how many decisions each device made after one moment, up to another."""
        return self._decisions_until(device, until) - self._decisions_until(device, np.full(len(device), since))

    def _step(self, live: Ints) -> None:
        at = self._at[:, live]
        kind = at.argmin(axis=0)
        now = at[kind, np.arange(len(live))]
        for which, act in (
            (_DECISION, self._decide),
            (_TIMER, self._flush),
            (_CALL, self._call),
            (_POLL, self._poll_again),
            (_SCRIPT, self._launch_or_leave),
            (_REFRESH, self._refresh),
        ):
            chosen = kind == which
            if chosen.any():
                act(live[chosen], now[chosen])
        self._next[live] = self._at[:, live].min(axis=0)

    def _launch_or_leave(self, device: Ints, now: Floats) -> None:
        leaves = self._awake[device]
        if leaves.any():
            self._leave(device[leaves], now[leaves])
        if not leaves.all():
            self._launch(device[~leaves], now[~leaves])

    def _launch(self, device: Ints, now: Floats) -> None:
        session = self._session[device]
        self._awake[device] = True
        self._online[device] = self._lives.online[session]
        self._last[device] = self._lives.first_decision[session + 1]
        self._at[_SCRIPT, device] = self._lives.left[session]
        if np.isfinite(self._policy.poll_seconds):
            self._poll_at_launch(device, now)
        if self._policy.calls_at_launch:
            calls = rules.should_call(self._lease[device], self.queued(device), now, self._contact[device])
            self._at[_CALL, device[calls]] = now[calls] + self._jitter(int(calls.sum()))
        else:
            self._arm(device, now)
        self._look_ahead(device)

    def _leave(self, device: Ints, now: Floats) -> None:
        self._absorb(device, now)
        self._awake[device] = False
        self._at[_DECISION, device] = self._at[_TIMER, device] = self._at[_POLL, device] = np.inf
        crashed = self._lives.crashed[self._session[device]]
        self._session[device] += 1
        self._at[_SCRIPT, device] = self._next_launch(device)
        queued = self.queued(device)
        calls = ~crashed & rules.should_call(self._lease[device], queued, now, self._contact[device])
        if self._policy.defer_events > 1:
            calls &= self._worth_it(device, queued, now)
        if calls.any():
            self._flush(device[calls], now[calls])

    def _worth_it(self, device: Ints, queued: Ints, now: Floats) -> Flags:
        oldest = np.where(self._frozen[device], self._frozen_from[device], self._head[device])
        old: Flags = now - self._decided[oldest] >= self._policy.defer_seconds
        return (queued >= self._policy.defer_events) | (old & (queued > 0))

    def _decide(self, device: Ints, now: Floats) -> None:
        was_empty = self.queued(device) == 0
        self._absorb(device, now)
        first = device[was_empty]
        self._armed_at[first] = now[was_empty] + self._jitter(len(first))
        self._look_ahead(device)
        self._set_timer(device, now)

    def _call(self, device: Ints, now: Floats) -> None:
        self._at[_CALL, device] = np.inf
        self._flush(device, now)

    def _poll_at_launch(self, device: Ints, now: Floats) -> None:
        stale = now - self._polled[device] >= self._policy.poll_seconds
        self._poll(device[stale], now[stale])
        if self._policy.polls_hourly:
            self._at[_POLL, device] = now + HOUR_SECONDS

    def _poll_again(self, device: Ints, now: Floats) -> None:
        self._poll(device, now)
        self._at[_POLL, device] = now + HOUR_SECONDS

    def _poll(self, device: Ints, now: Floats) -> None:
        reached = self._reach(device, now)
        self._polled[device[reached]] = now[reached]
        self._hear(device[reached], now[reached])

    def _refresh(self, device: Ints, now: Floats) -> None:
        """Be woken in the background; an app that is in the front has no need of it."""
        self._at[_REFRESH, device] = self._next_refresh(now)
        asleep = ~self._awake[device]
        device, now = device[asleep], now[asleep]
        self._online[device] = self._dice.random(len(device)) >= self._workload.offline_sessions
        if np.isfinite(self._policy.poll_seconds):
            stale = now - self._polled[device] >= self._policy.poll_seconds
            self._poll(device[stale], now[stale])
        calls = self.queued(device) > 0
        if self._policy.calls_at_launch:
            calls |= now - self._contact[device] >= self._lease[device]
        self._flush(device[calls], now[calls])

    def _next_refresh(self, now: Floats) -> Floats:
        next_at: Floats = now + self._dice.exponential(DAY_SECONDS / self._policy.refreshes_per_day, len(now))
        return next_at

    def _flush(self, device: Ints, now: Floats) -> None:
        self._absorb(device, now)
        silent = now < self._wait_until[device]
        sending, at = device[~silent], now[~silent]
        newest = self._tail[sending].copy()
        while len(sending):
            self._freeze(sending)
            taken = self._send(sending, at)
            more = taken & (self._frozen_to[sending] < newest)
            sending, at, newest = sending[more], at[more], newest[more]
        self._arm(device, now)
        self._look_ahead(device)

    def _freeze(self, device: Ints) -> None:
        fresh = device[~self._frozen[device]]
        self._frozen[fresh] = True
        self._frozen_from[fresh] = self._head[fresh]
        self._frozen_to[fresh] = np.minimum(self._head[fresh] + self._limits.batch_events, self._tail[fresh])
        self._head[fresh] = self._frozen_to[fresh]

    def _send(self, device: Ints, now: Floats) -> Flags:
        reached = self._reach(device, now)
        # No device is in `device` twice. Only what was lost once the gateway is back says who starves.
        self.lost[device[self._online[device] & ~reached & (now >= self._workload.stopped_seconds)]] += 1
        answers = self._gateway.answer(now[reached], self.on_trial[device[reached]])
        taken, wait = reached.copy(), np.zeros(len(device))
        taken[reached] = answers.taken
        wait[reached] = answers.retry_after_seconds
        self._settle(device[taken], now[taken], answers)
        if not taken.all():
            self._back_off(device[~taken], now[~taken], wait[~taken])
        return taken

    def _reach(self, device: Ints, now: Floats) -> Flags:
        """Say whose request gets through, and count those that left a phone."""
        online = self._online[device]
        sent, at = device[online], now[online]
        warm = at >= self._workload.warm_seconds
        self._tallies.requests += int(warm.sum())
        self._tallies.wake_ups += int((warm & (at - self._radio[sent] > _RADIO_TAIL_SECONDS)).sum())
        self._tallies.rates.add(at)
        self._radio[sent] = at
        return online & (self._dice.random(len(device)) >= self._workload.lost_requests)

    def _settle(self, device: Ints, now: Floats, answers: Answers) -> None:
        first, events = self._frozen_from[device], self._frozen_to[device] - self._frozen_from[device]
        before = np.cumsum(events) - events
        sent = np.repeat(first - before, events) + np.arange(events.sum())
        self._tallies.latencies.add(np.repeat(now, events) - self._decided[sent])
        self._tallies.delivered += len(sent)
        self._frozen[device] = False
        self._contact[device] = now
        self._failures[device] = 0
        taken = answers.taken
        self._events[device] = answers.events[taken]
        self._seconds[device] = answers.seconds[taken]
        self._lease[device] = answers.lease_seconds[taken]
        if self._policy.piggyback:
            self._hear(device, now)

    def _back_off(self, device: Ints, now: Floats, retry_after_seconds: Floats) -> None:
        self._failures[device] += 1
        jitter = rules.backoff(
            self._failures[device],
            self._limits.backoff_first_seconds,
            self._limits.backoff_last_seconds,
            self._dice.random(len(device)),
        )
        self._wait_until[device] = now + np.maximum(jitter, retry_after_seconds)

    def _hear(self, device: Ints, now: Floats) -> None:
        """A gateway's answer tells of what was published and stopped before."""
        for heard_at, since in (
            (self.learned_at, self._workload.published_seconds),
            (self.told_at, self._workload.stopped_seconds),
        ):
            news = device[now >= since]
            heard_at[news] = np.minimum(heard_at[news], now[now >= since])

    def _absorb(self, device: Ints, now: Floats) -> None:
        """Put the decisions made so far into the queues; of those past the bound, the oldest that are not frozen go."""
        self._tail[device] = self._decisions_until(device, now)
        excess = np.maximum(0, self.queued(device) - self._limits.queue_events)
        self._head[device] += excess
        self._tallies.dropped += int(excess.sum())

    def _decisions_until(self, device: Ints, now: Floats) -> Ints:
        return np.searchsorted(self._in_order, device * self._period + now, side="right")

    def _arm(self, device: Ints, now: Floats) -> None:
        self._armed_at[device] = now + self._jitter(len(device))
        self._set_timer(device, now)

    def _set_timer(self, device: Ints, now: Floats) -> None:
        """Set when the timer will flush: by count or age, after the wait, and only in the front."""
        age = now - self._armed_at[device]
        due = rules.due_in(self._events[device], self._seconds[device], self.queued(device), age)
        at = np.maximum(now + due, self._wait_until[device])
        self._at[_TIMER, device] = np.where(self._awake[device], at, np.inf)

    def _look_ahead(self, device: Ints) -> None:
        """Find the next decision that a flush hangs on: the first of a queue, or the one that fills it."""
        queued = self.queued(device)
        place = self._tail[device] + np.where(queued == 0, 0, self._events[device] - queued - 1)
        in_reach = self._awake[device] & (queued < self._events[device]) & (place < self._last[device])
        self._at[_DECISION, device] = np.where(
            in_reach, self._decided[np.minimum(place, len(self._decided) - 1)], np.inf
        )

    def _jitter(self, draws: int) -> Floats:
        return self._dice.random(draws) * self._limits.jitter_seconds

    def _next_launch(self, device: Ints) -> Floats:
        session = self._session[device]
        return np.where(session < self._lives.first_session[device + 1], self._launched[session], np.inf)

    def _first_use_since(self, moment: float) -> Floats:
        """Return when each device is first used from that moment on."""
        lives = self._lives
        owner = np.repeat(np.arange(lives.devices), np.diff(lives.first_session))
        ends = owner * self._period + lives.left
        session = np.searchsorted(ends, np.arange(lives.devices) * self._period + moment)
        return np.where(session < lives.first_session[1:], np.maximum(self._launched[session], moment), np.inf)
