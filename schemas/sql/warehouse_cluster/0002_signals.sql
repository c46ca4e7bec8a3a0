-- The column that 0004 adds to a shard's `batches`.

ALTER TABLE batches ADD COLUMN IF NOT EXISTS
    signals Map(LowCardinality(String), Array(LowCardinality(String)))
    COMMENT 'the names of the values that predictions carry, by model; empty in rows of before this column' AFTER have;
