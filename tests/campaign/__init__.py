"""The campaign: devices send while a seeded schedule of faults hits everything, and then every event is counted.

    make campaign FAULTS=200 SEED=1
    make campaign CAMPAIGN="--layout embedded"        without Kafka
    make campaign CAMPAIGN="--only '*broker*:*'"      only faults that match, as TARGET:KIND
    make campaign CAMPAIGN="--plant forget_ranges"    with our own code broken: it must fail

**What runs.** `kafka`: three Apache Kafka brokers, two `backhaul serve` (gateway with a spool, warehouse consumer), one
`consume warehouse` and two `consume unpack` alone, one ClickHouse. `embedded`: one `backhaul serve` with nothing beside
it, for machines without Java. Each machine has a clock of its own (clock.c); the brokers, ClickHouse and the spool or
log of the first gateway have small disks of their own. A proxy stands before each gateway, each broker and ClickHouse;
brokers reach each other past theirs.

**What is done to it.** 40 of 100 faults come alone, the others while earlier ones last; all is drawn from the seed.

* `kill` (-9) and `stop` (SIGSTOP): devices, gateways, consumers, unpackers, brokers, ClickHouse; `kill`: supervisors.
* `stop` for longer than a session: consumers and unpackers come back as zombies, and others have their partitions.
* `refuse`, `blackhole`, `lose_replies`: every proxy. What went into a black hole arrives afterwards, late.
* `disk_full`: the spool or log, each broker, ClickHouse. A broker that ends on it is started again.
* `clock_step`, forward or back, and then right again: by seconds, by an hour, or, for gateways, consumers and
  ClickHouse, by 10 days back and 2 forward, for brokers by half a day. Devices' clocks are days off all the time.
* `from_zero`: a consumer alone comes back in a group that has committed nothing, beside the others; in `embedded`, the
  consumer's positions are set to 0.

At the end, in `kafka`, every position and every plan is deleted; one consumer reads the whole log again, and those that
unpack go on where their events end.

**How it is judged.** Devices journal what they send and what they were answered, durable against their own kill -9;
that is the measure (`verdict`). At rest (spools empty, every record committed) each acknowledged event must be in
`events` once with what it said, each batch once, each refused event and body in `dead_letters` once with its reason;
the rollup must agree with the rows, `report loss` with the devices' ledgers, and the topic `events` must hold each
event as often as `consume unpack` promises. Times in the table say how far servers' clocks really were apart.

**How to read it.** The last line is the verdict, and the exit status says the same: 0 passed, 1 failed, 2 could not be
held. With `--plant` it must fail: `make planted` breaks our own code in the layout `kafka`, a test does in `embedded`.
A failed campaign names the directory of its logs. What this machine cannot do (no C compiler: no clock steps; no
mounts: no full disks) is said in notes below the table.
"""
