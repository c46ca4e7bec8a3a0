//! The gateway's job in Rust: look up the key, inflate, decode strictly, publish to Kafka with acks=all, answer.
//!
//! STYLE=batch sends one record a batch, as our gateway does. STYLE=slices checks each event and sends its text as one
//! record; STYLE=maps keeps what it does not know in a map, writes each event anew and sends that.

mod inflate;
mod publish;
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::publish::Publisher;
use crate::wire::{Batch, Event, Slice};

const BODY_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Batch,
    Slices,
    Maps,
}

struct Gateway {
    apps: HashMap<[u8; 32], String>,
    publisher: Publisher,
    isal: bool,
    style: Style,
}

/// What is left of a batch once its events are checked.
struct Taken {
    device: String,
    batch: String,
    events: usize,
    messages: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Loose {
    #[serde(rename = "type")]
    kind: String,
    t: u64,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

impl Gateway {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match self.ingest(request).await {
            Ok(reply) => Response::builder().header(CONTENT_TYPE, "application/json").body(reply.into()).unwrap(),
            Err(status) => Response::builder().status(status).body(Full::default()).unwrap(),
        })
    }

    async fn ingest(&self, request: Request<Incoming>) -> Result<String, StatusCode> {
        let app = self.app_of(&request).ok_or(StatusCode::UNAUTHORIZED)?;
        let body = Limited::new(request.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
        let taken = inflate::inflated(&body, self.isal, |document| self.take(document));
        let taken = taken.ok_or(StatusCode::BAD_REQUEST)?;
        let now = now_ms();
        let published = match self.style {
            Style::Batch => self.publisher.batch(app, &taken.device, &taken.batch, taken.events, now, &body).await,
            _ => self.publisher.events(&taken.device, &taken.messages).await,
        };
        if !published {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(format!(
            r#"{{"batch":"{}","accepted":{},"server_time":{},"flush":{{"events":50,"seconds":300,"lease_seconds":21600}}}}"#,
            taken.batch, taken.events, now
        ))
    }

    fn app_of(&self, request: &Request<Incoming>) -> Option<&str> {
        let key = request.headers().get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")?;
        self.apps.get(<[u8; 32]>::from(Sha256::digest(key)).as_slice()).map(String::as_str)
    }

    fn take(&self, document: &[u8]) -> Option<Taken> {
        match self.style {
            Style::Batch => {
                let batch: Batch<Event> = serde_json::from_slice(document).ok()?;
                let good = batch.envelope_is_good() && batch.events.iter().all(|event| batch.takes(event));
                good.then(|| taken(&batch, Vec::new()))
            }
            Style::Slices => {
                let batch: Batch<Slice> = serde_json::from_slice(document).ok()?;
                let good = |slice: &Slice| serde_json::from_str(slice.0.get()).is_ok_and(|event| batch.takes(&event));
                let messages = || batch.events.iter().map(|slice| slice.0.get().as_bytes().to_vec()).collect();
                (batch.envelope_is_good() && batch.events.iter().all(good)).then(|| taken(&batch, messages()))
            }
            Style::Maps => {
                let batch: Batch<Loose> = serde_json::from_slice(document).ok()?;
                let messages = || batch.events.iter().map(|event| serde_json::to_vec(event).unwrap()).collect();
                batch.envelope_is_good().then(|| taken(&batch, messages()))
            }
        }
    }
}

fn taken<E>(batch: &Batch<E>, messages: Vec<Vec<u8>>) -> Taken {
    Taken { device: batch.device.to_string(), batch: batch.batch.to_string(), events: batch.events.len(), messages }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let gateway = Rc::new(Gateway {
        apps: HashMap::from([(Sha256::digest(variable("APP_KEY")).into(), "bench".to_owned())]),
        publisher: Publisher::connect(&variable("BOOTSTRAP"), &variable("TOPIC")),
        isal: variable("INFLATE") == "isal",
        style: match variable("STYLE").as_str() {
            "batch" => Style::Batch,
            "slices" => Style::Slices,
            _ => Style::Maps,
        },
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, variable("PORT").parse().unwrap()));
    let listener = TcpListener::bind(address).await.unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let gateway = gateway.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(|request| gateway.answer(request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
        .await;
}
