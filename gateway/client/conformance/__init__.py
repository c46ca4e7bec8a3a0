"""The conformance kit: what any SDK in any language, and any gateway, must do, as rows that run from outside.

* `devices` judges an SDK through a driver, a process that is told what to do on stdin and answers on stdout
  (PROTOCOL.md). The kit plays the gateway and the CDN, kills the process, damages its files and turns its clock; it
  believes what it sees: requests, answers, and which model's score comes back.
* `gateways` judges a gateway by HTTP alone.
* A row is one small function with its number, its sentence and the reason why it exists (`rows`). What only a phone can
  show is a row too, skipped with that reason.
"""

from gateway.client.conformance.results import Outcome, Result

__all__ = ["Outcome", "Result"]
