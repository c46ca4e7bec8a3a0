//! The batch of the contract and its bounds: what serde's types say, then what they cannot say.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

const LAST_MILLISECOND: u64 = 10_413_791_999_999;
const LARGEST_INTEGER: u64 = (1 << 53) - 1;
const MAX_EVENTS: usize = 1000;

#[derive(Deserialize)]
pub struct Batch<'a, E> {
    #[serde(borrow)]
    pub device: Cow<'a, str>,
    #[serde(borrow)]
    pub batch: Cow<'a, str>,
    seq: u64,
    sent_at: u64,
    #[serde(borrow)]
    sdk: Cow<'a, str>,
    #[serde(borrow, default)]
    app_version: Cow<'a, str>,
    #[serde(borrow, default)]
    os: Cow<'a, str>,
    #[serde(borrow, default)]
    hardware: Cow<'a, str>,
    #[serde(borrow, default)]
    locale: Cow<'a, str>,
    #[serde(default)]
    have: HashMap<String, Have>,
    #[serde(default)]
    ledger: Ledger,
    #[serde(default)]
    signals: HashMap<String, Vec<String>>,
    pub events: Vec<E>,
}

#[derive(Deserialize)]
struct Have {
    catalogue: u64,
    r#use: Use,
    previous: Option<Use>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Use {
    Release(#[allow(dead_code)] u32),
    Word(String),
}

#[derive(Deserialize, Default)]
struct Ledger {
    produced: u64,
    #[serde(default)]
    dropped: HashMap<String, u64>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Prediction,
    Outcome,
    Model,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Ota,
    Bundled,
    Previous,
    None,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Offered,
    Downloaded,
    Verified,
    Activated,
    Failed,
    Reverted,
    Quarantined,
}

/// One flat struct: serde would buffer every event to find the tag of an enum, which costs half as much again.
#[derive(Deserialize)]
pub struct Event<'a> {
    r#type: Kind,
    id: Option<u64>,
    t: u64,
    #[serde(borrow)]
    model: Cow<'a, str>,
    release: Option<u32>,
    source: Option<Source>,
    score: Option<f64>,
    decision: Option<bool>,
    #[serde(default, rename = "explored")]
    _explored: bool,
    propensity: Option<f64>,
    #[serde(default, rename = "latency_us")]
    _latency_us: u32,
    #[serde(default)]
    signals: Vec<Option<f64>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(rename = "value")]
    _value: Option<f64>,
    state: Option<State>,
    #[serde(borrow)]
    detail: Option<Cow<'a, str>>,
    bytes: Option<u64>,
    #[serde(rename = "ms")]
    _ms: Option<u32>,
}

/// An event as its own text, for the style that sends one message an event.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Slice<'a>(#[serde(borrow)] pub &'a RawValue);

impl<E> Batch<'_, E> {
    pub fn envelope_is_good(&self) -> bool {
        is_uuid(&self.device)
            && is_uuid(&self.batch)
            && self.seq <= LARGEST_INTEGER
            && self.sent_at <= LAST_MILLISECOND
            && is_name(&self.sdk)
            && [&self.app_version, &self.os, &self.hardware, &self.locale].iter().all(|text| shorter(text, 64))
            && self.have.len() <= 64
            && self.have.iter().all(|(name, have)| is_name(name) && have.is_good())
            && self.ledger.produced <= LARGEST_INTEGER
            && self.ledger.dropped.len() <= 64
            && self.ledger.dropped.iter().all(|(name, count)| is_name(name) && *count <= LARGEST_INTEGER)
            && self.signals.len() <= 64
            && self.signals.iter().all(|(model, names)| {
                is_name(model) && names.len() <= 256 && names.iter().all(|name| is_name(name))
            })
            && self.events.len() <= MAX_EVENTS
    }

    pub fn takes(&self, event: &Event) -> bool {
        let carried = self.signals.get(event.model.as_ref()).map_or(0, Vec::len);
        event.is_good() && (event.r#type != Kind::Prediction || event.signals.len() == carried)
    }
}

impl Have {
    fn is_good(&self) -> bool {
        let known = |word: &Use| match word {
            Use::Release(_) => true,
            Use::Word(word) => word == "bundled" || word == "none",
        };
        self.catalogue <= LARGEST_INTEGER && known(&self.r#use) && self.previous.as_ref().is_none_or(known)
    }
}

impl Event<'_> {
    fn is_good(&self) -> bool {
        let shared = self.t <= LAST_MILLISECOND
            && is_name(&self.model)
            && self.id.is_none_or(|id| id <= LARGEST_INTEGER)
            && self.outcome.as_ref().is_none_or(|label| shorter(label, 64));
        shared
            && match self.r#type {
                Kind::Prediction => {
                    self.id.is_some()
                        && self.release.is_some()
                        && self.source.is_some()
                        && self.decision.is_some()
                        && self.score.is_some_and(is_probability)
                        && self.propensity.is_none_or(is_probability)
                        && self.signals.len() <= 256
                }
                Kind::Outcome => self.id.is_some() && self.outcome.is_some(),
                Kind::Model => {
                    self.release.is_some()
                        && self.state.is_some()
                        && self.detail.as_ref().is_none_or(|text| shorter(text, 256))
                        && self.bytes.is_none_or(|bytes| bytes <= LARGEST_INTEGER)
                }
            }
    }
}

fn is_probability(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn shorter(text: &str, limit: usize) -> bool {
    text.len() <= limit || text.chars().count() <= limit
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && shorter(text, 64)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}
