//! Policies: SQL that says what each provider contributed, and that cannot lie, wrap or fail.
//!
//! A bundle is refused unless it is written in the policy language (a whitelist over syntax, functions
//! and plans), unless its result is one row per provider of `devices`, and unless no number can exceed
//! 38 digits under any evidence that the catalogue, the quota and the cap of devices allow. What
//! remains has one answer: whole numbers, no order, no clock, nothing random, so the same bytes come
//! out under any number of partitions, batch size and order of records (R1). Nothing here pays:
//! dividing the pool by the weights is `fieldproof_proto::allocation`.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    ops::Range,
    sync::Arc,
};

use alloy_primitives::U256;
use datafusion::{error::DataFusionError, physical_plan::collect, sql::sqlparser::ast::Statement};
use fieldproof_proto::{
    control::{Metric, MetricKind, PolicyBundle},
    digest::{context, digest},
    ids::Digest,
    wire::put_bytes,
};

use self::engine::Engine;
pub use self::{
    engine::ENGINE,
    error::{Place, PolicyError, Rule},
    manifest::PolicyManifest,
    result::ContributionRow,
    views::DeviceRow,
};
use crate::readings::AdmittedRecord;

mod engine;
mod error;
mod functions;
mod manifest;
mod proof;
mod result;
mod syntax;
mod views;

/// What the bounds of a policy are proven from. Evidence has to keep to it: admission refuses values
/// out of range and readings over quota, and registrations beyond the cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFacts {
    /// The catalogue: every metric that the accepted records of an epoch may hold.
    pub metrics: BTreeMap<u32, Metric>,
    /// The most readings of one device that are accepted in one slot.
    pub readings_per_device_max: u32,
    /// The most rows of `devices`.
    pub devices_max: u32,
    /// The most slots whose records can hold readings of one window.
    pub slots_max: u32,
}

/// A policy that was proven.
#[derive(Debug, Clone)]
pub struct Policy {
    id: Digest,
    manifest: PolicyManifest,
    statement: Statement,
    facts: PolicyFacts,
    counters: Arc<BTreeSet<u32>>,
}

/// What a policy is run over.
#[derive(Debug, Clone)]
pub struct PolicyInputs {
    /// The accepted records of all slots that can hold readings of the window.
    pub readings: Vec<Arc<[AdmittedRecord]>>,
    /// The accepted records of the epoch's own slot, whose readings before the window are late.
    pub late_readings: Vec<Arc<[AdmittedRecord]>>,
    /// All devices of the program.
    pub devices: Vec<DeviceRow>,
    /// The epoch's window in milliseconds.
    pub window: Range<u64>,
    /// How to run; changes no byte of the result.
    pub settings: EngineSettings,
}

/// How the engine divides its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Into how many streams.
    pub target_partitions: NonZeroUsize,
    /// How many rows at a time.
    pub batch_size: NonZeroUsize,
}

impl Default for EngineSettings {
    /// One stream for each core, and DataFusion's own number of rows.
    fn default() -> Self {
        const BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(8192).expect("it is not zero");
        Self {
            target_partitions: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            batch_size: BATCH_SIZE,
        }
    }
}

impl Policy {
    /// Parses, plans and proves a bundle. Refuses with the rule that is broken, and where.
    pub fn check(bundle: &PolicyBundle, facts: &PolicyFacts) -> Result<Self, PolicyError> {
        let manifest = PolicyManifest::parse(&bundle.policy_toml)?;
        let statement = syntax::parse(&bundle.contribution_sql, &manifest.parameters)?;
        let is_counter = |metric: &&Metric| metric.metric_kind == MetricKind::Counter;
        let counters = facts.metrics.values().filter(is_counter).map(|metric| metric.id).collect();
        let policy = Self {
            id: policy_id(bundle),
            manifest,
            statement,
            facts: facts.clone(),
            counters: Arc::new(counters),
        };
        let nothing = PolicyInputs {
            readings: Vec::new(),
            late_readings: Vec::new(),
            devices: Vec::new(),
            window: 0..0,
            settings: EngineSettings { target_partitions: NonZeroUsize::MIN, batch_size: NonZeroUsize::MIN },
        };
        policy.prove(&policy.engine(nothing)?)?;
        Ok(policy)
    }

    /// Names the policy: its text, its parameters, the columns of the views and the engine.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The content of its `policy.toml`.
    pub fn manifest(&self) -> &PolicyManifest {
        &self.manifest
    }

    /// Runs the policy: one row per provider of `devices`, in rising order. The work is done on the
    /// caller's runtime and keeps its threads busy.
    pub async fn run(&self, inputs: PolicyInputs) -> Result<Vec<ContributionRow>, PolicyError> {
        views::check_devices(&inputs.devices, &self.facts)?;
        let providers = inputs.devices.iter().map(|row| row.provider).collect();
        let engine = self.engine(inputs)?;
        // The plan that is executed is proven itself: it may depend on the settings.
        self.prove(&engine)?;
        let plan = engine.plan(&self.statement)?;
        let plan = engine.state.create_physical_plan(&plan).await?;
        let batches = collect(plan, engine.state.task_ctx()).await?;
        result::contributions(&batches, &providers)
    }

    fn engine(&self, inputs: PolicyInputs) -> Result<Engine, PolicyError> {
        let settings = inputs.settings;
        Ok(Engine::new(settings, views::views(inputs, &self.counters)?))
    }

    /// Proves the plan as written, and that the optimized one stays within bounds.
    fn prove(&self, engine: &Engine) -> Result<(), PolicyError> {
        let plan = engine.plan(&self.statement).map_err(planning_error)?;
        let relation = proof::Prover::new(&self.facts).prove(&plan)?;
        proof::check_output(&plan, &relation)?;
        let optimized = engine.state.optimize(&plan).map_err(planning_error)?;
        proof::Prover::new(&self.facts).prove(&optimized)?;
        Ok(())
    }
}

impl PolicyFacts {
    /// The most rows of `readings`.
    fn readings_max(&self) -> U256 {
        self.late_readings_max().saturating_mul(U256::from(self.slots_max))
    }

    /// The most rows of `late_readings`.
    fn late_readings_max(&self) -> U256 {
        U256::from(self.readings_per_device_max).saturating_mul(U256::from(self.devices_max))
    }
}

/// The id of a policy: the digest of its text, the schema of its views, and the engine.
pub fn policy_id(bundle: &PolicyBundle) -> Digest {
    let mut bytes = Vec::new();
    for part in [&bundle.policy_toml, &bundle.contribution_sql, &views::schema_text(), ENGINE] {
        put_bytes(&mut bytes, part.as_bytes());
    }
    digest(context::POLICY, &[&bytes])
}

/// What the planner refuses is a fault of the policy: an unknown column, types that do not compare.
fn planning_error(error: DataFusionError) -> PolicyError {
    let place = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| Place {
        file: error::SQL_FILE,
        line: span.start.line,
        column: span.start.column,
    });
    PolicyError::refused(Rule::Plan, place, error.strip_backtrace())
}

#[cfg(test)]
mod tests;
