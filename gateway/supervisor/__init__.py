"""A whole working system in one command: the processes of `backhaul serve`, and what is promised about them.

    supervisor ──┬── clickhouse   the embedded server, unless `clickhouse_url` names one
                 ├── gateway      answers devices, writes the log: a file, or Kafka with a spool before it;
                 │                as many as `workers` says, on one address
                 └── warehouse    reads the log, writes ClickHouse, unless `warehouse` is off

* **One instance a data directory** (`lock`): held by the supervisor and inherited by every child.
* **A child that ends or hangs is started again**, after 0.2 s and up to 5 s (`child`, `pulse`). No child waits for
  another: the gateway takes batches while ClickHouse is down, and the consumer catches up.
* **What is taken in does not outrun for long what is stored**: where all of it shares one machine's cores, the gateway
  stands back for the consumer and ClickHouse (`children`, the key `gateway_nice`).
* **The supervisor holds the listening sockets** (`workers`), so a device that connects while the gateway is being
  started again waits in the queue instead of being refused, and a taken port is one clear line.
* **Any number on one Kafka**: gateways share nothing but the object store; consumers of one warehouse are one group
  (`members`), here and by `backhaul consume`.
* **Stopping is ordered** (`supervise`): the gateway drains, the consumer catches up, ClickHouse closes; what has not
  left within `grace_seconds` is killed. Killing the supervisor itself ends the children too (`lifeline`).
* **`run.json`** (`runfile`) tells other commands on the same directory where things are.
"""
