"""Real clients by the thousand against one real gateway in a hurry, and what the simulation said of the same lives.

    run ──┬── hurried    the gateway, a process of its own, killed in the middle and started again
          ├── crowd      processes of real clients; each client lives one of the simulation's lives
          └── predicted  the simulation, with the same lives, the same moments and the same flush control

* **The same script for both** (`plan`): launches, decisions, crashes, sessions and days without network, at the moments
  at which the clients came to them; so a difference is the client's or the gateway's, and not the dice's. What the
  simulation does not know: app updates, clocks that are wrong or set, and the steps of a model's update, which are
  events too and have to be sent.
* **Time is compressed**: a device's day takes a minute or so. The clients' clocks and the gateway's flush control run
  at that pace; the network and the log do not, so what takes them a moment takes a device minutes. A machine that
  stands still for a tenth of a second sends a gateway minutes of requests at once, of which its budget refuses more
  than the simulation does: the busier the machine, the more.
* **Every event is counted in the end** (`counted`): produced by the clients, found on the log, lost, doubled.
"""
