"""The other side of a simulated fleet: what answers its requests.

* A request that reaches it is answered at once: what takes seconds is nothing in a policy that counts hours.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.workload import Flags, Floats, Ints


@dataclass(frozen=True)
class Answers:
    """One answer a request: taken, or told to come back after `retry_after_seconds`; the policy where taken."""

    taken: Flags
    retry_after_seconds: Floats
    events: Ints
    seconds: Floats
    lease_seconds: Floats


class Gateway(Protocol):
    """What the simulated devices talk to."""

    def answer(self, at: Floats, on_trial: Flags) -> Answers:
        """Answer the requests that arrive at these times, in no order."""
        ...


class SteadyGateway:
    """Takes everything, and never changes the policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def answer(self, at: Floats, on_trial: Flags) -> Answers:
        """Take everything."""
        policy, requests = self.policy, len(at)
        trial_lease = policy.lease_seconds if policy.trial_lease_seconds is None else policy.trial_lease_seconds
        return Answers(
            taken=np.ones(requests, np.bool_),
            retry_after_seconds=np.zeros(requests),
            events=np.full(requests, policy.events),
            seconds=np.full(requests, float(policy.seconds)),
            lease_seconds=np.where(on_trial, trial_lease, policy.lease_seconds).astype(np.float64),
        )
