"""The warehouse: every record of the log, stored in ClickHouse exactly once. The argument for it, step by step.

Two kinds of duplicate threaten: a record *handed out again* (a crash, a rebalance, two consumers at once) and a batch
*sent again* by its device, minutes or weeks later. And a write may be *half done*: ClickHouse writes a block to one
table, and within it to one partition, as a whole or not at all, but to several tables one after the other.

1. **Plan before writing.** To take a range that starts at `first`, a consumer inserts a plan (log, topic, partition,
   first, last) under a token that names all but `last`, and reads back the oldest plan with that `first`: concurrent
   inserts are settled by the token, later ones by age. Whoever lost takes the winner's `last`. The next range starts
   at last + 1. So the ranges of a lane form one chain: they never overlap with other boundaries, whoever plans.
2. **A range is done before the next is planned**, so only the newest plan of a lane can be unfinished. At every start,
   and after every failure, a consumer looks at that plan first: if the position is past it, it is done; otherwise
   exactly that range is written again. What the next range would hold may be read meanwhile (`ranges.py`): reading
   changes nothing.
3. **Writing again writes what is missing.** A replay asks every table what it has of the range (a batch's rows in
   `batches` by their origin, its rows in `events`, dead letters by theirs) and inserts only the rest, until nothing is
   missing. A block is all or nothing per table and partition, and a batch's rows are in one partition (they share
   `received_at`) and in one block (one insert, one thread, block sizes above any range), so "has some of a batch's
   events" means "has all of them". This needs no memory of tokens, so a replay may come late.
4. **Two writers of one range** are told apart by nobody and need not be: every insert of the range carries the same
   token, on tables that all remember tokens, views' targets included. Whoever writes second is dropped, table by
   table, partition by partition.
5. **A writer that comes too late for the tokens** (a process stopped for days in front of its insert) is fenced: its
   insert asks the server, as part of the insert, whether its plan is still the newest, and fails otherwise. What is
   left is an insert that was let through and takes long: `max_execution_time` ends it, and tokens are remembered for
   10,000 blocks of a table, far more than can be written meanwhile. **Old plans are pruned** below the newest hundred
   of a lane, and the fence does not miss them: it asks for the newest plan, which is never pruned, and a lane's `first`
   only grows. A writer whose plan is gone may plan its range a second time, where the token is forgotten as well; that
   plan stands below the newest, so it is told `Superseded`, its insert fails at the fence, and no chain follows it.
6. **Sent again** means: `batches` has this (app, device, batch) from another origin (log, topic, partition, offset).
   Within a range the lowest offset wins. Rows of the very same origin are an earlier try, see 3. All records of a
   device stand on one partition, so nobody else can be storing the same batch at the same time.
7. **The position is committed last.** It lets the log trim; where it contradicts the plans, the plans are right.

What would break it: changing the number of partitions while a device's resend is under way (its batch could stand on
two lanes at once: where the first copy is stored by then, it is found, since `batches` is asked whatever the
partition); a server so far behind with its merges that `events` stay days longer than `batches`, which are kept
three days more (a resend after both have expired is stored anew, the only copy by then); a log that gives offsets out
again under the same identity (noticed where it ends before the newest plan, and not written).

Documents are not trusted to mean the same to two JSON readers. See `batches.py` and 0002_landing.sql: where the server
sees another batch or device, another number of events or a value outside the wire's bounds, the insert stops before
anything is written, and the range is rendered anew. What is *not* noticed is a key that a document says twice with two
values that are both in bounds: the gateway checked the last, the server stores the first. To look for it costs 2 us of
CPU an event, a third of everything else, and would protect nobody but the sender of such a document from itself.

On a cluster all this holds shard by shard: `shards.py` says what makes a shard answer like one server.
"""

from consumers.warehouse.consumer import run
from consumers.warehouse.settings import Progress, WarehouseSettings
from consumers.warehouse.shards import Connect
from consumers.warehouse.tables import Away

__all__ = ["Away", "Connect", "Progress", "WarehouseSettings", "run"]
