//! Ingest as a device sees it, and the log as the aggregator sees it.

#![allow(clippy::unwrap_used, missing_docs)]

mod refusals;
mod support;

use std::{collections::BTreeMap, num::NonZeroU64};

use fieldproof_device::{Device, LinkFaults};
use fieldproof_ingest::{Ingest, IngestError, IngestLimits};
use fieldproof_proto::{
    batch::{BatchHeader, Place, batch_digest},
    ids::Digest,
    receipt::Receipt,
    signature::DeviceSecret,
    v1::{Down, SignedBatch, down},
};
use prost::Message as _;
use support::{Kafka, Stored, World, large_payload, payload};
use tokio_util::sync::CancellationToken;

/// Where each receipt of a device points, checked against the log.
fn check_receipts(world: &World, device: &Device, records: &[Stored], batches: u64) {
    let mut covered = BTreeMap::new();
    for stored in device.receipts().unwrap() {
        let receipt = Receipt::verify(&stored.signed.body, &stored.signed.signature).unwrap();
        assert_eq!((receipt.network, receipt.generation, receipt.device), (world.network, 7, device.id()));
        let record = records
            .iter()
            .find(|record| (record.partition, record.offset) == (receipt.partition, receipt.offset))
            .expect("a receipt names a record that is there");
        assert_eq!((record.kind.as_str(), &record.key[..]), ("batch", &device.id().0[..]));
        let batch = SignedBatch::decode(&record.value[..]).unwrap();
        assert_eq!(batch_digest(&world.network, &batch.header, &batch.payload), receipt.digest);
        assert_eq!(place(record), Place { boot: receipt.boot, seq: receipt.to_seq });
        for seq in receipt.from_seq..=receipt.to_seq {
            assert_eq!(covered.insert((receipt.boot, seq), ()), None, "two receipts cover `{seq}`");
        }
    }
    assert_eq!(covered.len() as u64, batches);
}

fn place(record: &Stored) -> Place {
    BatchHeader::parse(&SignedBatch::decode(&record.value[..]).unwrap().header).unwrap().place
}

/// Runs a device beside `work`, and gives what became of it.
async fn beside<T>(device: &Device, work: impl Future<Output = T>) -> T {
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (device, shutdown) = (device.clone(), shutdown.clone());
        async move { device.run(shutdown).await }
    });
    let result = work.await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
    result
}

async fn registered(world: &World, ingest: &Ingest, seed: u8, faults: Option<LinkFaults>) -> Device {
    let device = Device::open(world.device_config(ingest, seed, faults), 100).unwrap();
    let registration = world.registration(&DeviceSecret::ed25519([seed; 32]), "energy");
    let place = device.register(registration).await.unwrap();
    assert_eq!(place.partition, device.id().partition(support::PARTITIONS.try_into().unwrap()));
    assert_eq!(place.generation, 7);
    device
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_every_acknowledged_batch_is_at_the_place_its_receipt_names() {
    let world = World::new();
    let ingest = world.ingest().await;
    let mut devices = Vec::new();
    for seed in 10..14 {
        devices.push(registered(&world, &ingest, seed, None).await);
    }
    for device in &devices {
        beside(device, async {
            for number in 0..60 {
                device.push(payload(number)).unwrap();
            }
            device.flush().await;
        })
        .await;
    }
    let records = world.telemetry();
    assert_eq!(records.len(), 4 * 61);
    for device in &devices {
        check_receipts(&world, device, &records, 60);
        let own: Vec<_> = records.iter().filter(|record| record.key == device.id().0).collect();
        assert_eq!(own[0].kind, "registration");
        let seqs: Vec<_> = own[1..].iter().map(|record| place(record).seq).collect();
        assert_eq!(seqs, (0..60).collect::<Vec<_>>(), "in order, without duplicates");
        assert_eq!(device.counts().acknowledged, 60);
        assert_eq!(device.counts().resent, 0);
    }
    let counts = ingest.counts();
    assert_eq!((counts.batches_logged, counts.registrations_logged), (240, 4));
    assert!(counts.receipts < 240, "receipts are cumulative: {counts:?}");
    assert_eq!(counts.refused, BTreeMap::new());
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_received_are_the_bytes_stored() {
    let world = World::new();
    let ingest = world.ingest().await;
    let secret = DeviceSecret::p256([5; 32]).unwrap();
    world.register(&ingest, &secret).await;
    let mut link = world.link(&ingest, &secret).await;
    let (batch, digest) = world.batch(&secret, 0, Digest::ZERO);
    link.send(batch.clone()).await.unwrap();
    let Some(Down { message: Some(down::Message::Receipt(receipt)) }) = link.next().await.unwrap() else {
        panic!("no receipt")
    };
    let receipt = Receipt::verify(&receipt.body, &receipt.signature).unwrap();
    assert_eq!(receipt.digest, digest);
    assert_eq!(receipt.ingester, link.ingester_key());
    let records = world.telemetry();
    assert_eq!(SignedBatch::decode(&records[1].value[..]).unwrap(), batch);
    drop(link);
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_receipts_are_exactly_the_duplicates_in_the_log() {
    let world = World::new();
    let ingest = world.ingest().await;
    let faults = LinkFaults::lose_every(NonZeroU64::new(3).unwrap());
    let device = registered(&world, &ingest, 20, Some(faults.clone())).await;
    beside(&device, async {
        for number in 0..200 {
            device.push(payload(number)).unwrap();
        }
        device.flush().await;
    })
    .await;
    let records = world.telemetry();
    let lost = faults.batches_lost();
    assert!(lost > 0);
    assert_eq!(records.len() as u64, 1 + 200 + lost);
    assert_eq!(ingest.counts().batches_logged, 200 + lost);
    assert_eq!(device.counts().resent, lost);
    check_receipts(&world, &device, &records, 200);
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_what_the_log_did_not_confirm_has_no_receipt_and_comes_again() {
    let world = World::new();
    let ingest = world.ingest().await;
    let device = registered(&world, &ingest, 25, None).await;
    world.kafka.fail_produce(2);
    beside(&device, async {
        for number in 0..100 {
            device.push(payload(number)).unwrap();
        }
        device.flush().await;
    })
    .await;
    let counts = ingest.counts();
    assert!(counts.refused["unavailable"] >= 1, "{counts:?}");
    assert!(device.counts().resent >= 1);
    let records = world.telemetry();
    check_receipts(&world, &device, &records, 100);
    ingest.stop().await.unwrap();
}

/// Far less room than the device's credit: reading stops, and nothing is refused or lost.
#[tokio::test(flavor = "multi_thread")]
async fn m1_a_full_process_stops_reading_and_refuses_nobody() {
    let world = World::new();
    let limits = IngestLimits { in_flight_bytes_max: 1_048_576 + 542, ..IngestLimits::default() };
    let ingest = world.ingest_with(limits).await.unwrap();
    let mut devices = Vec::new();
    for seed in 60..64 {
        let device = registered(&world, &ingest, seed, None).await;
        for number in 0..12 {
            device.push(large_payload(number)).unwrap();
        }
        devices.push(device);
    }
    let all = devices.iter().map(|device| beside(device, device.flush()));
    futures::future::join_all(all).await;
    let counts = ingest.counts();
    assert_eq!((counts.batches_logged, counts.refused), (48, BTreeMap::new()));
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn m2_a_drain_answers_everything_and_costs_no_resend() {
    let world = World::new();
    let ingest = world.ingest().await;
    let address = ingest.address();
    let device = registered(&world, &ingest, 30, None).await;
    let again = beside(&device, async {
        for number in 0..150 {
            device.push(payload(number)).unwrap();
        }
        // Some of them are under way now, whatever the machine's speed.
        ingest.stop().await.unwrap();
        let acknowledged = device.counts().acknowledged;
        assert_eq!(world.telemetry().len() as u64, 1 + acknowledged, "all that was logged is answered");
        let mut config = world.config(IngestLimits::default());
        config.listen = address;
        let again = Ingest::start(config).await.unwrap();
        device.flush().await;
        again
    })
    .await;
    let records = world.telemetry();
    assert_eq!(records.len(), 151);
    assert_eq!(device.counts().resent, 0);
    check_receipts(&world, &device, &records, 150);
    // The registration came back from the topic `registry`.
    assert_eq!(again.counts().refused, BTreeMap::new());
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_starts_again_sends_what_it_stored() {
    let world = World::new();
    let ingest = world.ingest().await;
    let device = registered(&world, &ingest, 40, None).await;
    for number in 0..5 {
        device.push(payload(number)).unwrap();
    }
    assert_eq!(device.unanswered(), 5);
    drop(device);
    let device = Device::open(world.device_config(&ingest, 40, None), 50).unwrap();
    assert_eq!(device.boot(), 101, "the clock went back, the boot does not");
    assert_eq!(device.unanswered(), 5);
    device.push(payload(4)).unwrap_err();
    device.push(payload(5)).unwrap();
    beside(&device, device.flush()).await;
    let records = world.telemetry();
    check_receipts(&world, &device, &records, 6);
    let mut previous = Digest::ZERO;
    for record in &records[1..] {
        let batch = SignedBatch::decode(&record.value[..]).unwrap();
        assert_eq!(BatchHeader::parse(&batch.header).unwrap().previous, previous);
        previous = batch_digest(&world.network, &batch.header, &batch.payload);
    }
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_why() {
    let world = World::new();
    let ingest = world.ingest().await;
    let mut config = world.config(IngestLimits::default());
    config.listen = ingest.address();
    let error = Ingest::start(config).await.err().unwrap();
    assert!(error.to_string().contains(&ingest.address().to_string()), "{error}");

    let mut config = world.config(IngestLimits::default());
    "elsewhere".clone_into(&mut config.topics.registry);
    let error = Ingest::start(config).await.err().unwrap();
    assert_eq!(error.to_string(), "the topic `elsewhere` does not exist");

    let other = Kafka::start(&[("telemetry", 3), ("control", 1), ("registry", 1)]);
    let mut config = world.config(IngestLimits::default());
    config.kafka.bootstrap_servers = other.bootstrap_servers.clone();
    let error = Ingest::start(config).await.err().unwrap();
    assert!(matches!(error, IngestError::Partitions { found: 3, expected: 4, .. }), "{error}");

    let limits = IngestLimits { credit_bytes: 1, ..IngestLimits::default() };
    let error = world.ingest_with(limits).await.err().unwrap();
    assert!(error.to_string().starts_with("the limit credit_bytes is `1`"), "{error}");
    ingest.stop().await.unwrap();
}
