"""Millions of devices on one core: what a flush policy costs and brings, before any phone has it.

* The client's constants and rules, the fleet's lives, a gateway that answers; no files, no models, no network.
"""
