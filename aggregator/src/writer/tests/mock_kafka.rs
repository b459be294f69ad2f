//! librdkafka's mock cluster, on a thread of its own: it must stay where it was made.

use std::{sync::mpsc, thread::JoinHandle, time::Duration};

use fieldproof_proto::evidence::Record;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

/// The topic of tests, with one partition.
pub const TOPIC: &str = "telemetry";

/// A broker.
pub struct MockKafka {
    pub bootstrap_servers: String,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Down,
    Up,
}

impl MockKafka {
    /// A broker with an empty topic.
    pub fn start() -> Self {
        let (address, started) = mpsc::channel();
        let (orders, received) = mpsc::channel::<Order>();
        let thread = std::thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic(TOPIC, 1, 1).unwrap();
            address.send(cluster.bootstrap_servers()).unwrap();
            for order in received {
                match order {
                    Order::Down => cluster.broker_down(-1).unwrap(),
                    Order::Up => cluster.broker_up(-1).unwrap(),
                }
            }
        });
        let bootstrap_servers = started.recv().unwrap();
        Self { bootstrap_servers, orders: Some(orders), thread: Some(thread) }
    }

    /// A broker that has these records.
    pub fn with(records: &[Record]) -> Self {
        let kafka = Self::start();
        kafka.produce(records);
        kafka
    }

    /// Nobody can reach it any more.
    pub fn go_down(&self) {
        self.orders.as_ref().unwrap().send(Order::Down).unwrap();
    }

    /// It is back.
    pub fn come_up(&self) {
        self.orders.as_ref().unwrap().send(Order::Up).unwrap();
    }

    /// Appends records, whose times are the ones given. Their offsets are those the broker gives.
    pub fn produce(&self, records: &[Record]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("linger.ms", "1")
            .create()
            .unwrap();
        for record in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            let mut message =
                BaseRecord::<[u8], [u8]>::to(TOPIC).partition(0).timestamp(record.append_ms).headers(headers);
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            producer.send(message).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }
}

impl Drop for MockKafka {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.thread.take().unwrap().join().unwrap();
    }
}
