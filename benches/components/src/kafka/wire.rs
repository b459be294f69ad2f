//! The two requests of Kafka's protocol that are needed to tell that a cluster is ready and to
//! create a topic, so that this crate links no client and judges none.
//!
//! Metadata 4 and CreateTopics 4 are the last versions with fixed-width lengths.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Topic;

const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const VERSION: i16 = 4;
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Far above what a test cluster answers; a length above it is not an answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What one node knows about its cluster.
#[derive(Debug)]
pub(super) struct Metadata {
    pub cluster: String,
    pub brokers: usize,
    /// Of the topic that was asked for.
    pub partitions_with_leader: usize,
}

/// Asks the node on `port` about its cluster and at most one topic.
pub(super) fn metadata(port: u16, topic: Option<&str>) -> Result<Metadata> {
    let mut body = Vec::new();
    put_array(&mut body, topic.as_slice(), |body, name| put_string(body, name))?;
    body.push(0); // do not create it
    let answer = ask(port, METADATA, &body)?;
    let mut answer = Reader(&answer);
    answer.i32()?; // throttled for so long
    let brokers = answer.array(|broker| {
        broker.i32()?;
        broker.string()?;
        broker.i32()?;
        broker.string()
    })?;
    let cluster = answer.string()?.context("the node names no cluster")?;
    answer.i32()?; // controller
    let topics = answer.array(|topic| {
        topic.i16()?; // its error also shows as partitions without leader
        topic.string()?;
        topic.take(1)?;
        topic.array(|partition| {
            let error = partition.i16()?;
            partition.i32()?;
            let leader = partition.i32()?;
            partition.array(Reader::i32)?;
            partition.array(Reader::i32)?;
            Ok(error == 0 && leader >= 0)
        })
    })?;
    let partitions_with_leader = topics.iter().flatten().filter(|led| **led).count();
    Ok(Metadata { cluster, brokers: brokers.len(), partitions_with_leader })
}

/// Creates a topic; its partitions may not have leaders yet.
pub(super) fn create_topic(port: u16, topic: &Topic<'_>) -> Result<()> {
    let mut body = Vec::new();
    put_array(&mut body, &[topic], |body, topic| {
        put_string(body, topic.name)?;
        body.extend(topic.partitions.to_be_bytes());
        body.extend(topic.replication.to_be_bytes());
        put_array(body, &[(); 0], |_, ()| Ok(()))?; // no assignment of ours
        put_array(body, topic.settings, |body, (name, value)| {
            put_string(body, name)?;
            put_string(body, value)
        })
    })?;
    body.extend(i32::try_from(ANSWER_DEADLINE.as_millis())?.to_be_bytes());
    body.push(0); // not only a check
    let answer = ask(port, CREATE_TOPICS, &body)?;
    let mut answer = Reader(&answer);
    answer.i32()?; // throttled for so long
    answer.array(|created| {
        created.string()?;
        let error = created.i16()?;
        let message = created.string()?.unwrap_or_default();
        ensure!(error == 0, "topic `{}` was refused with code {error}: {message}", topic.name);
        Ok(())
    })?;
    Ok(())
}

/// One request, one connection. Returns the answer behind its correlation id.
fn ask(port: u16, request: i16, body: &[u8]) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    message.extend(request.to_be_bytes());
    message.extend(VERSION.to_be_bytes());
    message.extend(1_i32.to_be_bytes());
    put_string(&mut message, "fieldproof-components")?;
    message.extend(body);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    stream.write_all(&message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length))?;
    ensure!((4..=ANSWER_BYTES_MAX).contains(&length), "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer.split_off(4))
}

fn put_string(message: &mut Vec<u8>, text: &str) -> Result<()> {
    message.extend(i16::try_from(text.len())?.to_be_bytes());
    message.extend(text.as_bytes());
    Ok(())
}

fn put_array<T>(
    message: &mut Vec<u8>,
    items: &[T],
    mut put: impl FnMut(&mut Vec<u8>, &T) -> Result<()>,
) -> Result<()> {
    message.extend(i32::try_from(items.len())?.to_be_bytes());
    items.iter().try_for_each(|item| put(message, item))
}

/// What of an answer is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            bail!("the answer ends {} bytes early", count - self.0.len());
        };
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    /// `None` is the protocol's null, which is not the empty string.
    fn string(&mut self) -> Result<Option<String>> {
        match self.i16()? {
            -1 => Ok(None),
            length => Ok(Some(String::from_utf8(self.take(usize::try_from(length)?)?.to_vec())?)),
        }
    }

    fn array<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.i32()?.max(0)).map(|_| item(self)).collect()
    }
}
