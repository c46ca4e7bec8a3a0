"""Deliberate breakages of the reference client, each of which its tests must notice: `make mutations`."""
