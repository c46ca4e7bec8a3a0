"""The campaign: devices send while a seeded schedule of faults hits everything, and then every event is counted.

    make campaign FAULTS=200 SEED=1

* Two layouts. `kafka`: three Apache Kafka brokers, two gateways with spools, two warehouse consumers, one ClickHouse.
  `embedded`: one `backhaul serve` with nothing beside it, for machines without Java.
* Faults: kill -9 and SIGSTOP of gateways, consumers, ClickHouse, brokers, supervisors and devices; connections refused,
  swallowed or cut after the request; a disk that is full. One at a time and two together, drawn from the seed.
* Devices journal what they send and what was acknowledged; at the end that is compared with the warehouse, event by
  event. Lost or doubled must be 0. The last line printed is the verdict, and the exit status says the same.
* Not here: clock steps of servers (the kernel's clock is everybody's); devices' clocks are wrong by up to days.
"""
