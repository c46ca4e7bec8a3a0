-- Counts by hour, kept inside every part of `events`: an aggregate projection is written, deduplicated, merged and dropped
-- with the rows that it counts, so it cannot disagree with them, whatever dies.
-- * What a query wants to filter or sum by is a column of it, and no condition is inside a count: a projection serves only
--   the expressions that it holds, letter for letter. Days are toDate(toStartOfHour(occurred_at)).
-- * An outcome that comes in a later batch is a row of its own, without the release it belongs to. So conversions by
--   release count outcomes that came with their prediction; those that came later are counted by model.

ALTER TABLE events MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild';

ALTER TABLE events ADD PROJECTION IF NOT EXISTS rollup
(
    SELECT
        app, model, type, release, source, arm, decision, outcome, state, toStartOfHour(occurred_at),
        count(), sum(score), sum(latency_us)
    GROUP BY app, model, type, release, source, arm, decision, outcome, state, toStartOfHour(occurred_at)
);

ALTER TABLE events MATERIALIZE PROJECTION rollup;
