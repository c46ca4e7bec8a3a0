// The batch of the contract and its bounds, checked by hand: several times as fast as a schema compiler's output.
const LAST_MILLISECOND = 10_413_791_999_999
const LARGEST_UINT32 = 2 ** 32 - 1
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const SOURCES = new Set(['ota', 'bundled', 'previous', 'none'])
const STATES = new Set(['offered', 'downloaded', 'verified', 'activated', 'failed', 'reverted', 'quarantined'])

const isCount = value => Number.isSafeInteger(value) && value >= 0
const isCount32 = value => isCount(value) && value <= LARGEST_UINT32
const isTime = value => isCount(value) && value <= LAST_MILLISECOND
const isText = (value, limit) => typeof value === 'string' && value.length <= limit
const isName = value => isText(value, 64) && value !== ''
const isProbability = value => typeof value === 'number' && value >= 0 && value <= 1
const isUse = value => isCount32(value) || value === 'bundled' || value === 'none'
const isSignal = value => value === null || Number.isFinite(value)
const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value)
const absentOr = (value, check) => value === undefined || check(value)
const isLabel = value => isText(value, 64)

function isMap (value, checkOne) {
  if (!isObject(value)) return false
  const entries = Object.entries(value)
  return entries.length <= 64 && entries.every(([name, one]) => isName(name) && checkOne(one))
}

const isHave = value => isObject(value) && isCount(value.catalogue) && isUse(value.use) &&
  (value.previous == null || isUse(value.previous))
const isLedger = value => isObject(value) && isCount(value.produced) && absentOr(value.dropped, map => isMap(map, isCount))
const isNames = value => Array.isArray(value) && value.length <= 256 && value.every(isName)

function isEvent (event, signals) {
  if (!isObject(event) || !isTime(event.t) || !isName(event.model)) return false
  switch (event.type) {
    case 'prediction': {
      const values = event.signals ?? []
      return isCount(event.id) && isCount32(event.release) && SOURCES.has(event.source) && isProbability(event.score) &&
        typeof event.decision === 'boolean' && absentOr(event.explored, value => typeof value === 'boolean') &&
        absentOr(event.propensity, isProbability) && absentOr(event.latency_us, isCount32) &&
        Array.isArray(values) && values.length === (signals[event.model]?.length ?? 0) && values.every(isSignal) &&
        (event.outcome == null || isLabel(event.outcome)) && (event.value == null || Number.isFinite(event.value))
    }
    case 'outcome':
      return isCount(event.id) && isLabel(event.outcome) && absentOr(event.value, Number.isFinite)
    case 'model':
      return isCount32(event.release) && STATES.has(event.state) && absentOr(event.detail, value => isText(value, 256)) &&
        absentOr(event.bytes, isCount) && absentOr(event.ms, isCount32)
    default:
      return false
  }
}

export function isBatch (batch) {
  if (!isObject(batch) || !UUID.test(batch.device) || !UUID.test(batch.batch)) return false
  const signals = batch.signals ?? {}
  return isCount(batch.seq) && isTime(batch.sent_at) && isName(batch.sdk) &&
    [batch.app_version, batch.os, batch.hardware, batch.locale].every(text => absentOr(text, isLabel)) &&
    absentOr(batch.have, map => isMap(map, isHave)) && absentOr(batch.ledger, isLedger) && isMap(signals, isNames) &&
    Array.isArray(batch.events) && batch.events.length <= 1000 && batch.events.every(event => isEvent(event, signals))
}
