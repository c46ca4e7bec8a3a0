-- The embedded log: one table a topic, written by the gateway alone, read by any number of consumers.
-- The identity is random: a log made again can never be taken for this one.
CREATE TABLE log (identity TEXT NOT NULL, created_at TEXT NOT NULL);
INSERT INTO log VALUES (lower(hex(randomblob(16))), strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
-- number = offset + 1. AUTOINCREMENT starts at 1 and never hands a number out twice, not even after the records before
-- it were trimmed; so the topic's row of sqlite_sequence is the count of records ever appended, which is the next offset.
-- headers: a MessagePack array of [name, value] pairs.
CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE dead_letters (number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
