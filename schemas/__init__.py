"""What a device, the gateway and the consumers say to each other: types, names, SQL and golden vectors.

* Imports nothing of `gateway` or `consumers`; both import this.
* Pure: no I/O, no clock, no dice.
"""
