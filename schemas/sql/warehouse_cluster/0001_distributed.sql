-- What stands in the warehouse's own database where it is a cluster: the rows of all shards under the names that they have
-- on a single server, so that every question is asked in the same words. The rows themselves are in {rows}, on the shard
-- that their partition of the log belongs to.
-- * Nobody inserts here: without a sharding key ClickHouse refuses it, and the place of a row is what makes it exact.
-- * A column that a later version adds to a table of {rows} has to be added here as well.

CREATE TABLE IF NOT EXISTS events AS {rows}.events ENGINE = Distributed({cluster}, '{rows}', 'events');

CREATE TABLE IF NOT EXISTS batches AS {rows}.batches ENGINE = Distributed({cluster}, '{rows}', 'batches');

CREATE TABLE IF NOT EXISTS dead_letters AS {rows}.dead_letters ENGINE = Distributed({cluster}, '{rows}', 'dead_letters');

CREATE TABLE IF NOT EXISTS plans AS {rows}.plans ENGINE = Distributed({cluster}, '{rows}', 'plans');
