-- The embedded log: one table a topic, written by the gateway alone, read by any number of consumers.
-- AUTOINCREMENT never hands an offset out twice, not even after the records before it were trimmed.
CREATE TABLE log (identity TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE batches (offset INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE dead_letters (offset INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
