-- What a device named for its predictions, kept of every batch: also of an update check, and of one whose predictions were
-- all refused. It decides which releases fit the device, so a decision can be made again, and a refused event be read.

ALTER TABLE batches ADD COLUMN IF NOT EXISTS
    signals Map(LowCardinality(String), Array(LowCardinality(String)))
    COMMENT 'the names of the values that predictions carry, by model; empty in rows of before this column' AFTER have;

ALTER TABLE parsed_to_batches MODIFY QUERY
SELECT
    app, device, batch, log, topic, partition, offset,
    fromUnixTimestamp64Milli(parsed.received_at, 'UTC') AS received_at, fromUnixTimestamp64Milli(parsed.sent_at, 'UTC') AS sent_at,
    gateway, seq, toUInt32(length(indexes)) AS accepted, refused, sdk, app_version, os, hardware, locale,
    produced, dropped, have, signals, offer, length(document) AS document_bytes
FROM parsed
WHERE parsed.reason = '' AND NOT already_batch;
