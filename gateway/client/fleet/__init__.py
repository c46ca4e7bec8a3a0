"""Scripted lives over real clients: load, demonstrations and end-to-end tests without a phone.

* Real: the client, its files, the requests, the models and their answers. Made up: the users, their phones, the time.
"""

from gateway.client.fleet.reports import DeviceReport, FleetReport
from gateway.client.fleet.run import FleetOptions, KeyRefused, bundled_upsell, run_fleet

__all__ = ["DeviceReport", "FleetOptions", "FleetReport", "KeyRefused", "bundled_upsell", "run_fleet"]
