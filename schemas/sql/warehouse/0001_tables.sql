-- The warehouse: one row per event, one per batch, one per dead letter, and the plans of the consumer that writes them.
-- * Partition and expiry go by received_at, the gateway's clock: devices' clocks lie.
-- * Every target of an insert has a deduplication window, and parts are on disk before an insert is answered: the log
--   is trimmed on the strength of that answer.
-- * `batches` and `dead_letters` are kept longer than `events`: a resend is recognised as long as its rows can be there.
-- * Every statement can run again, and at the same time in two consumers.

CREATE TABLE IF NOT EXISTS events
(
    app LowCardinality(String),
    device UUID,
    batch UUID COMMENT 'with index: the identity of the event',
    `index` UInt32,
    type Enum8('prediction' = 1, 'outcome' = 2, 'model' = 3),
    t DateTime64(3, 'UTC') COMMENT 'the device clock' CODEC(Delta, ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') COMMENT 't moved by received_at - sent_at' CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') COMMENT 'the gateway clock' CODEC(Delta, ZSTD(1)),
    gateway LowCardinality(String),
    model LowCardinality(String),
    release UInt32,
    source LowCardinality(String) COMMENT 'of a prediction: ota, bundled, previous or none',
    id UInt64 COMMENT 'with device and model: joins an outcome to its prediction' CODEC(Delta, ZSTD(1)),
    score Float64,
    decision Bool,
    explored Bool,
    propensity Float64,
    latency_us UInt32,
    signals Map(LowCardinality(String), Nullable(Float64)) CODEC(ZSTD(1)),
    outcome LowCardinality(String) COMMENT 'empty where not known',
    value Nullable(Float64),
    state LowCardinality(String) COMMENT 'of a model event: what happened on the device',
    detail String CODEC(ZSTD(1)),
    bytes UInt64,
    ms UInt32,
    sdk LowCardinality(String),
    app_version LowCardinality(String),
    os LowCardinality(String),
    hardware LowCardinality(String),
    locale LowCardinality(String),
    offered LowCardinality(String) COMMENT 'what the reply to this batch told the device to use of this model',
    arm LowCardinality(String),
    rollout UInt64,
    INDEX occurred occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(received_at)
ORDER BY (app, model, device, batch, `index`)
TTL toDateTime(received_at) + toIntervalDay({retention_days})
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,
    ttl_only_drop_parts = 1, min_bytes_for_wide_part = 67108864;

-- Sorted for one question, asked for every batch that arrives: is it here already? Few, small granules answer it.
CREATE TABLE IF NOT EXISTS batches
(
    app LowCardinality(String),
    device UUID,
    batch UUID,
    log String COMMENT 'with topic, partition and offset: where the batch stood on the log',
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64,
    received_at DateTime64(3, 'UTC'),
    sent_at DateTime64(3, 'UTC'),
    gateway LowCardinality(String),
    seq UInt64,
    accepted UInt32,
    refused UInt32,
    sdk LowCardinality(String),
    app_version LowCardinality(String),
    os LowCardinality(String),
    hardware LowCardinality(String),
    locale LowCardinality(String),
    produced UInt64 COMMENT 'events since install, by the device''s ledger',
    dropped Map(LowCardinality(String), UInt64) COMMENT 'events dropped on the device since install, by reason',
    have Map(LowCardinality(String), Tuple(catalogue UInt64, use String, previous String)),
    offer Map(LowCardinality(String), Tuple(use String, arm String, rollout UInt64)),
    document_bytes UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (app, device, batch)
TTL toDateTime(received_at) + toIntervalDay({recognised_days})
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,
    index_granularity = 256, min_compress_block_size = 4096, max_compress_block_size = 4096,
    min_bytes_for_wide_part = 67108864;

CREATE TABLE IF NOT EXISTS dead_letters
(
    digest FixedString(16) COMMENT 'of app, device, batch and index, or of app and body where there is no batch',
    app LowCardinality(String),
    received_at DateTime64(3, 'UTC'),
    device String,
    batch String,
    `index` Nullable(UInt32),
    reason LowCardinality(String),
    encoding LowCardinality(String) COMMENT 'json: the body is an event; anything else: base64 of a body as it was sent',
    body String CODEC(ZSTD(3)),
    log String,
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY digest
TTL toDateTime(received_at) + toIntervalDay({recognised_days})
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,
    index_granularity = 256;

-- The chain of ranges. Of several plans with one `first` the oldest counts; _block_number tells which that is.
CREATE TABLE IF NOT EXISTS plans
(
    log String,
    topic LowCardinality(String),
    partition UInt32,
    first UInt64,
    last UInt64,
    planned_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (log, topic, partition, first)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,
    enable_block_number_column = 1, index_granularity = 256;
