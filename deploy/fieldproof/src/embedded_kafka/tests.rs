use std::{fs, net::TcpListener as StdTcpListener, path::Path};

use tansu_sans_io::{
    ProduceRequest,
    fetch_response::PartitionData,
    produce_request::{PartitionProduceData, TopicProduceData},
    record::{Record, deflated, inflated},
};
use tempfile::tempdir;

use super::{EmbeddedKafka, LOG_FILE, semantics, storage_url};

#[tokio::test]
async fn starts_stops_and_starts_again_on_the_same_port() -> anyhow::Result<()> {
    let parent = tempdir()?;
    let directory = parent.path().join("a directory with spaces");
    let kafka = EmbeddedKafka::start(&directory, 0).await?;
    let address = kafka.bootstrap_servers();
    tokio::net::TcpStream::connect(&address).await?;
    assert!(directory.join(LOG_FILE).is_file());
    kafka.stop().await?;

    let port = address.rsplit(':').next().unwrap_or_default().parse()?;
    let kafka = EmbeddedKafka::start(&directory, port).await?;
    assert_eq!(kafka.bootstrap_servers(), address);
    kafka.stop().await
}

#[tokio::test]
async fn refusals_name_what_is_wrong() -> anyhow::Result<()> {
    let parent = tempdir()?;
    let kafka = EmbeddedKafka::start(parent.path(), 0).await?;

    let refusal = refusal(parent.path(), 0).await;
    assert!(refusal.contains("another embedded kafka runs in"), "{refusal}");

    let taken = StdTcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let refusal = self::refusal(&parent.path().join("other"), port).await;
    assert!(refusal.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{refusal}");

    let file = parent.path().join("file");
    fs::write(&file, b"")?;
    let refusal = self::refusal(&file, 0).await;
    assert!(refusal.contains("cannot create the directory") && refusal.contains("/file`"), "{refusal}");

    let refusal = self::refusal(&parent.path().join("größe"), 0).await;
    assert!(refusal.contains("cannot keep its log in") && refusal.contains("größe"), "{refusal}");

    let broken = parent.path().join("broken");
    fs::create_dir(&broken)?;
    fs::write(broken.join(LOG_FILE), vec![7; 8192])?;
    let refusal = self::refusal(&broken, 0).await;
    assert!(refusal.contains("did not start in") && refusal.contains("/broken"), "{refusal}");
    kafka.stop().await
}

async fn refusal(directory: &Path, port: u16) -> String {
    match EmbeddedKafka::start(directory, port).await {
        Ok(kafka) => format!("started on {}", kafka.bootstrap_servers()),
        Err(reason) => format!("{reason:#}"),
    }
}

#[test]
fn the_log_is_where_we_say() -> anyhow::Result<()> {
    for directory in ["/", "/var/lib/fieldproof", "/tmp/two words/100%"] {
        let url = storage_url(Path::new(directory))?;
        // What tansu does with it.
        let mut path = std::env::current_dir()?;
        assert_eq!(url.domain(), None);
        path.push(url.path().strip_prefix('/').unwrap_or(url.path()));
        let climbed: Vec<_> =
            path.iter().skip_while(|part| *part != "..").filter(|part| *part != "..").collect();
        let expected: Vec<_> = Path::new(directory).iter().skip(1).chain([LOG_FILE.as_ref()]).collect();
        assert_eq!(climbed, expected);
    }
    for directory in ["/tmp/a?b", "/tmp/a#b", "/tmp/größe", "/tmp/a\tb"] {
        assert!(storage_url(Path::new(directory)).is_err(), "{directory}");
    }
    Ok(())
}

fn batch(base_offset: i64, time_ms: i64, deltas_ms: &[i64]) -> anyhow::Result<deflated::Batch> {
    let mut batch = inflated::Batch::builder()
        .base_offset(base_offset)
        .base_timestamp(time_ms)
        .producer_id(7)
        .base_sequence(3);
    for (offset, delta_ms) in (0..).zip(deltas_ms) {
        let record =
            Record::builder().offset_delta(offset).timestamp_delta(*delta_ms).value(Some(vec![9; 3].into()));
        batch = batch.record(record).last_offset_delta(offset);
    }
    Ok(batch.build()?.try_into()?)
}

#[test]
fn a_producer_cannot_choose_the_time() -> anyhow::Result<()> {
    let frame = deflated::Frame { batches: vec![batch(0, 1_000_000, &[0, 500, 90_000])?] };
    let partition = PartitionProduceData::default().records(Some(frame));
    let topic = TopicProduceData::default().partition_data(Some(vec![partition]));
    let mut produce = ProduceRequest::default().topic_data(Some(vec![topic]));
    semantics::stamp(&mut produce, 2_000_000)?;

    let topics = produce.topic_data.unwrap_or_default();
    let partitions = topics[0].partition_data.clone().unwrap_or_default();
    let stamped = inflated::Batch::try_from(&partitions[0].records.clone().unwrap_or_default().batches[0])?;
    assert_eq!(
        (stamped.base_timestamp, stamped.max_timestamp, stamped.attributes),
        (2_000_000, 2_000_000, 8)
    );
    assert_eq!((stamped.producer_id, stamped.base_sequence, stamped.last_offset_delta), (7, 3, 2));
    assert!(
        stamped
            .records
            .iter()
            .all(|record| record.timestamp_delta == 0 && record.value.as_deref() == Some(&[9; 3]))
    );
    Ok(())
}

#[test]
fn every_batch_of_an_answer_has_one_time_and_no_offset_moves() -> anyhow::Result<()> {
    let frame =
        deflated::Frame { batches: vec![batch(40, 1_000, &[0, 0, 5, 9, 9])?, batch(45, 1_010, &[0])?] };
    let mut partition = PartitionData::default().records(Some(frame));
    semantics::one_time_per_batch(&mut partition)?;

    let mut seen = vec![];
    for batch in partition.records.unwrap_or_default().batches {
        let batch = inflated::Batch::try_from(batch)?;
        assert!(batch.records.iter().all(|record| record.timestamp_delta == 0));
        seen.push((batch.base_offset, batch.last_offset_delta, batch.records.len(), batch.max_timestamp));
    }
    assert_eq!(seen, [(40, 1, 2, 1_000), (42, 0, 1, 1_005), (43, 1, 2, 1_009), (45, 0, 1, 1_010)]);
    Ok(())
}
