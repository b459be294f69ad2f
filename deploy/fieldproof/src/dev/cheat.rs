//! A device that cheats, below the SDK: it replays, contradicts itself, and renames old readings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use fieldproof_device::Link;
use fieldproof_proto::{
    batch::{BatchFacts, Place, sign_batch},
    ids::{Digest, NetworkId},
    payload::Payload,
    receipt::Receipt,
    signature::DeviceSecret,
    v1::{SignedBatch, down},
};
use tonic::transport::Endpoint;

/// How often the device cheated, each as one batch in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheatCounts {
    /// A batch that was sent before.
    pub replayed: u64,
    /// Another batch for a place that was used.
    pub contradicted: u64,
    /// Readings that were sent before, under a new boot.
    pub renamed: u64,
}

/// The device.
pub struct Cheater {
    endpoint: String,
    network: NetworkId,
    secret: DeviceSecret,
    link: tokio::sync::Mutex<Option<Link>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: Place,
    previous: Digest,
    last: Option<(SignedBatch, Place)>,
    counts: CheatCounts,
    receipts: Vec<Receipt>,
}

impl Cheater {
    /// A device in its boot `boot`. It keeps nothing: after a restart it is a device with a gap.
    pub fn new(endpoint: String, network: NetworkId, secret: DeviceSecret, boot: u64) -> Self {
        let state = State {
            next: Place { boot, seq: 0 },
            previous: Digest::ZERO,
            last: None,
            counts: CheatCounts::default(),
            receipts: Vec::new(),
        };
        Self { endpoint, network, secret, link: tokio::sync::Mutex::new(None), state: Mutex::new(state) }
    }

    /// Sends readings as an honest device does, and waits for the receipt.
    pub async fn send(&self, payload: &Payload) -> anyhow::Result<()> {
        let (place, previous) = {
            let state = self.state();
            (state.next, state.previous)
        };
        let (batch, digest) = self.sign(place, previous, payload)?;
        self.deliver(batch.clone()).await?;
        let mut state = self.state();
        state.last = Some((batch, place));
        state.previous = digest;
        state.next.seq += 1;
        Ok(())
    }

    /// Cheats three times with the batch that was sent last, whose readings are `payload`.
    pub async fn cheat(&self, payload: &Payload) -> anyhow::Result<()> {
        let Some((batch, place)) = self.state().last.clone() else { return Ok(()) };
        self.deliver(batch).await?;
        self.state().counts.replayed += 1;

        let mut better = payload.clone();
        for value in better.columns.iter_mut().flat_map(|column| &mut column.values).flatten() {
            *value += 1_000_000;
        }
        let previous = self.state().previous;
        let (contradiction, _) = self.sign(place, previous, &better)?;
        self.deliver(contradiction).await?;
        self.state().counts.contradicted += 1;

        let (renamed, _) = self.sign(Place { boot: place.boot + 1, seq: 0 }, previous, payload)?;
        self.deliver(renamed).await?;
        self.state().counts.renamed += 1;
        Ok(())
    }

    /// What it did so far.
    pub fn counts(&self) -> CheatCounts {
        self.state().counts
    }

    /// The receipts it got; it has a right to them.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.state().receipts.clone()
    }

    fn sign(
        &self,
        place: Place,
        previous: Digest,
        payload: &Payload,
    ) -> anyhow::Result<(SignedBatch, Digest)> {
        let facts = BatchFacts { network: self.network, registration: 1, place, previous };
        Ok(sign_batch(&self.secret, &facts, payload)?)
    }

    /// Sends one batch and waits until the log has it.
    async fn deliver(&self, batch: SignedBatch) -> anyhow::Result<()> {
        let mut link = self.link.lock().await;
        if link.is_none() {
            let channel = Endpoint::from_shared(self.endpoint.clone())?.tcp_nodelay(true).connect().await?;
            *link = Some(Link::connect(channel, self.network, self.secret.public_key().device_id()).await?);
        }
        let open = link.as_mut().context("the link was just opened")?;
        open.send(batch).await?;
        loop {
            let down = open.next().await?.context("ingest closed the stream of the cheating device")?;
            match down.message {
                Some(down::Message::Receipt(receipt)) => {
                    self.state().receipts.push(Receipt::verify(&receipt.body, &receipt.signature)?);
                    return Ok(());
                }
                Some(down::Message::Rejection(rejection)) => {
                    bail!("ingest rejected a batch: {}", rejection.message)
                }
                _ => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
