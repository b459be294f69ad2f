//! Registrations: checked, put into the device's partition, then into the ingesters' cache.

use std::sync::Arc;

use fieldproof_proto::{
    registration::{verify_admitter, verify_registration},
    v1::{RegisterResponse, SignedRegistration},
};
use prost::Message as _;

use crate::{
    error::Refusal,
    log::{LogRecord, RecordKind},
    server::Core,
};

/// The partition of the topic `registry`.
const REGISTRY_PARTITION: u32 = 0;

impl Core {
    /// Puts a registration into the log. When this returns `Ok`, the registration is in the
    /// device's partition at that place, and in the topic `registry`. Registering the same again
    /// is fine: admission ignores it.
    pub(crate) async fn register(
        self: &Arc<Self>,
        signed: Option<SignedRegistration>,
    ) -> Result<RegisterResponse, Refusal> {
        let signed = signed.ok_or_else(|| Refusal::Registration("there is no registration".to_owned()))?;
        let (core, value) = (self.clone(), signed.encode_to_vec());
        let device = self
            .pool
            .run(move || {
                let refused = |error: fieldproof_proto::registration::RegistrationError| {
                    Refusal::Registration(error.to_string())
                };
                let registration =
                    verify_registration(&core.network, core.genesis.chain_id, &signed).map_err(refused)?;
                let program = core
                    .caches
                    .program(&registration.program)
                    .map_err(|known| Refusal::Program { program: registration.program.clone(), known })?;
                verify_admitter(&core.network, &program.admitter, &signed).map_err(refused)?;
                Ok(registration.device_id())
            })
            .await?;
        let partition = device.partition(self.genesis.partitions);
        let mut record = LogRecord {
            topic: &self.topics.telemetry,
            partition,
            device: &device,
            kind: RecordKind::Registration,
            value: &value,
        };
        let offset = self.append_and_wait(&record, None).await?;
        self.metrics.registration_logged();
        (record.topic, record.partition) = (&self.topics.registry, REGISTRY_PARTITION);
        self.append_and_wait(&record, None).await?;
        self.caches.add_device(device);
        Ok(RegisterResponse { generation: self.topics.generation, partition, offset })
    }
}
