-- Whole batch documents in, rows out: the consumer moves bytes, the server reads the JSON, once.
-- * The server's reader is lenient and is not the gateway's. A document in which it sees another batch or device, another
--   number of events, or a value outside the wire's bounds stops a strict insert, whole, before anything is written; in
--   an insert that is not strict it becomes a dead letter. Of a repeated key it takes the first value that fits.
-- * already_batch and already_events mark what an earlier, half-finished try has written.

CREATE TABLE IF NOT EXISTS landing
(
    log String,
    topic String,
    partition UInt32,
    offset UInt64,
    app String,
    device UUID,
    batch UUID,
    received_at Int64,
    gateway String,
    expected UInt32 COMMENT 'how many events the document must hold',
    refused UInt32,
    indexes Array(UInt32) COMMENT 'of the events in their batch; empty where the document is whole',
    offer String,
    document String,
    strict Bool,
    already_batch Bool,
    already_events Bool,
    digest FixedString(16),
    reason String COMMENT 'not empty: the document is a dead letter for this reason',
    encoding String
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS parsed
(
    log String,
    topic String,
    partition UInt32,
    offset UInt64,
    app String,
    device UUID,
    batch UUID,
    received_at Int64,
    gateway String,
    refused UInt32,
    indexes Array(UInt32),
    offer Map(LowCardinality(String), Tuple(use String, arm String, rollout UInt64)),
    document String,
    already_batch Bool,
    already_events Bool,
    digest FixedString(16),
    reason String,
    encoding String,
    sent_at Int64,
    seq UInt64,
    sdk LowCardinality(String),
    app_version LowCardinality(String),
    os LowCardinality(String),
    hardware LowCardinality(String),
    locale LowCardinality(String),
    produced UInt64,
    dropped Map(LowCardinality(String), UInt64),
    have Map(LowCardinality(String), Tuple(catalogue UInt64, use String, previous String)),
    signals Map(LowCardinality(String), Array(LowCardinality(String))),
    events Array(Tuple(
        type LowCardinality(String), id UInt64, t Int64, model LowCardinality(String), release UInt32,
        source LowCardinality(String), score Float64, decision Bool, explored Bool, propensity Nullable(Float64),
        latency_us UInt32, signals Array(Nullable(Float64)), outcome LowCardinality(String), value Nullable(Float64),
        state LowCardinality(String), detail String, bytes UInt64, ms UInt32))
)
ENGINE = Null;

-- Each step is a subquery of its own: an alias would be resolved anew wherever it is used, at every insert.
CREATE MATERIALIZED VIEW IF NOT EXISTS landing_to_parsed TO parsed AS
SELECT
    log, topic, partition, offset, app, device, batch, received_at, gateway, refused,
    if(empty(checked.indexes), range(expected), checked.indexes) AS indexes,
    JSONExtract(checked.offer, 'Map(LowCardinality(String), Tuple(use String, arm String, rollout UInt64))') AS offer,
    document, already_batch, already_events, digest,
    multiIf(
        throwIf(strict AND checked.reason = '' AND NOT same, 'unreadable'), '',
        checked.reason != '', checked.reason,
        same, '',
        'unreadable_record') AS reason,
    encoding,
    d.sent_at AS sent_at, d.seq AS seq, d.sdk AS sdk, d.app_version AS app_version, d.os AS os,
    d.hardware AS hardware, d.locale AS locale, d.ledger.produced AS produced, d.ledger.dropped AS dropped,
    d.have AS have, d.signals AS signals, d.events AS events
FROM
(
    SELECT
        *,
        d.device = device AND d.batch = batch AND length(d.events) = expected
            AND d.sent_at BETWEEN 0 AND 10413791999999
            AND arrayAll(
                (type, t, model, source, score, propensity, signals, state) ->
                    t BETWEEN 0 AND 10413791999999 AND model != '' AND lengthUTF8(model) <= 64
                    AND multiIf(
                        type = 'prediction', score BETWEEN 0 AND 1 AND ifNull(propensity, 1) BETWEEN 0 AND 1
                            AND source IN ('ota', 'bundled', 'previous', 'none')
                            AND length(signals) IN (0, length(d.signals[model])),
                        type = 'model', state IN
                            ('offered', 'downloaded', 'verified', 'activated', 'failed', 'reverted', 'quarantined'),
                        type = 'outcome'),
                d.events.type, d.events.t, d.events.model, d.events.source, d.events.score, d.events.propensity,
                d.events.signals, d.events.state) AS same
    FROM
    (
        SELECT
            *,
            JSONExtract(document, 'Tuple(
                device UUID, batch UUID, seq UInt64, sent_at Int64,
                sdk LowCardinality(String), app_version LowCardinality(String), os LowCardinality(String),
                hardware LowCardinality(String), locale LowCardinality(String),
                ledger Tuple(produced UInt64, dropped Map(LowCardinality(String), UInt64)),
                have Map(LowCardinality(String), Tuple(catalogue UInt64, use String, previous String)),
                signals Map(LowCardinality(String), Array(LowCardinality(String))),
                events Array(Tuple(
                    type LowCardinality(String), id UInt64, t Int64, model LowCardinality(String), release UInt32,
                    source LowCardinality(String), score Float64, decision Bool, explored Bool,
                    propensity Nullable(Float64), latency_us UInt32, signals Array(Nullable(Float64)),
                    outcome LowCardinality(String), value Nullable(Float64), state LowCardinality(String),
                    detail String, bytes UInt64, ms UInt32)))') AS d
        FROM landing
    )
) AS checked;

CREATE MATERIALIZED VIEW IF NOT EXISTS parsed_to_events TO events AS
SELECT
    app, device, batch, i AS `index`, CAST(e.type, 'Enum8(\'prediction\' = 1, \'outcome\' = 2, \'model\' = 3)') AS type,
    fromUnixTimestamp64Milli(e.t, 'UTC') AS t,
    fromUnixTimestamp64Milli(greatest(0, least(e.t + parsed.received_at - sent_at, 10413791999999)), 'UTC') AS occurred_at,
    fromUnixTimestamp64Milli(parsed.received_at, 'UTC') AS received_at,
    gateway, e.model AS model,
    if(type != 'outcome', e.release, 0) AS release,
    if(type = 'prediction', e.source, '') AS source,
    if(type != 'model', e.id, 0) AS id,
    if(type = 'prediction', e.score, 0) AS score,
    type = 'prediction' AND e.decision AS decision,
    type = 'prediction' AND e.explored AS explored,
    if(type = 'prediction', ifNull(e.propensity, 1), 0) AS propensity,
    if(type = 'prediction', e.latency_us, 0) AS latency_us,
    mapFromArrays(
        if(type = 'prediction' AND notEmpty(e.signals), parsed.signals[e.model], []),
        if(type = 'prediction', e.signals, [])) AS signals,
    if(type != 'model', e.outcome, '') AS outcome,
    multiIf(type = 'prediction', e.value, type = 'outcome', ifNull(e.value, 0), NULL) AS value,
    if(type = 'model', e.state, '') AS state,
    if(type = 'model', e.detail, '') AS detail,
    if(type = 'model', e.bytes, 0) AS bytes,
    if(type = 'model', e.ms, 0) AS ms,
    sdk, app_version, os, hardware, locale,
    offer[e.model].use AS offered, offer[e.model].arm AS arm, offer[e.model].rollout AS rollout
FROM parsed
ARRAY JOIN events AS e, indexes AS i
WHERE parsed.reason = '' AND NOT already_events;

CREATE MATERIALIZED VIEW IF NOT EXISTS parsed_to_batches TO batches AS
SELECT
    app, device, batch, log, topic, partition, offset,
    fromUnixTimestamp64Milli(parsed.received_at, 'UTC') AS received_at, fromUnixTimestamp64Milli(parsed.sent_at, 'UTC') AS sent_at,
    gateway, seq, toUInt32(length(indexes)) AS accepted, refused, sdk, app_version, os, hardware, locale,
    produced, dropped, have, offer, length(document) AS document_bytes
FROM parsed
WHERE parsed.reason = '' AND NOT already_batch;

CREATE MATERIALIZED VIEW IF NOT EXISTS parsed_to_dead_letters TO dead_letters AS
SELECT
    digest, app, fromUnixTimestamp64Milli(parsed.received_at, 'UTC') AS received_at, '' AS device, '' AS batch,
    CAST(NULL, 'Nullable(UInt32)') AS `index`, reason, encoding, document AS body, log, topic, partition, offset
FROM parsed
WHERE parsed.reason != '';
