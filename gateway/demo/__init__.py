"""The whole path on one machine, shown and checked: `backhaul demo`.

* Real: `backhaul serve` as it ships, the clients, HTTP, the signed releases, the warehouse. Made up: the users.
* It ends with a verdict: all that was produced is stored once or counted as dropped, every device runs what it should.
"""

from gateway.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
