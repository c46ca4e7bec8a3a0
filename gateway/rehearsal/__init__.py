"""Real clients by the thousand against one real gateway in a hurry, and what the simulation said of the same lives.

    run ──┬── hurried    the gateway, a process of its own, killed in the middle and started again
          ├── crowd      processes of real clients; each client lives one of the simulation's lives
          └── predicted  the simulation, with the same lives, the same moments and the same flush control

* **The same script for both** (`plan`): launches, decisions, sessions without network; so a difference is the
  client's or the gateway's, and not the dice's.
* **Time is compressed**: a device's day takes a minute or so. The clients' clocks and the gateway's flush control run
  at that pace; the network, the disk and the log do not, so what takes them a moment takes a device minutes.
* **Every event is counted in the end** (`counted`): produced by the clients, found on the log, lost, doubled.
"""
