//! Publishes through librdkafka, idempotent and acknowledged by all in-sync brokers, as our gateway does.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::ClientConfig;

pub struct Publisher {
    producer: FutureProducer,
    topic: String,
}

impl Publisher {
    pub fn connect(bootstrap: &str, topic: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .expect("the producer cannot be made");
        Self { producer, topic: topic.to_owned() }
    }

    /// One record a batch: the body as it came.
    pub async fn batch(&self, app: &str, device: &str, batch: &str, events: usize, now: u128, body: &[u8]) -> bool {
        let (now, events) = (now.to_string(), events.to_string());
        let known = [
            ("app", app),
            ("content-encoding", "gzip"),
            ("received_at", &now),
            ("gateway", "bench"),
            ("batch", batch),
            ("events", &events),
        ];
        let headers = known
            .into_iter()
            .fold(OwnedHeaders::new_with_capacity(known.len()), |all, (key, value)| {
                all.insert(Header { key, value: Some(value) })
            });
        match self.producer.send_result(FutureRecord::to(&self.topic).key(device).payload(body).headers(headers)) {
            Ok(delivery) => matches!(delivery.await, Ok(Ok(_))),
            Err(_) => false,
        }
    }

    /// One record an event.
    pub async fn events(&self, device: &str, messages: &[Vec<u8>]) -> bool {
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            match self.producer.send_result(FutureRecord::to(&self.topic).key(device).payload(message)) {
                Ok(delivery) => deliveries.push(delivery),
                Err(_) => return false,
            }
        }
        for delivery in deliveries {
            if !matches!(delivery.await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }
}
