//! Logs to standard error, metrics by OTLP where the environment names a collector.

use std::io::IsTerminal as _;

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use tracing_subscriber::EnvFilter;

/// Keeps metrics flowing; dropping it loses the last ones, `shutdown` does not.
#[derive(Debug, Default)]
pub struct Telemetry {
    meters: Option<SdkMeterProvider>,
}

/// Why telemetry could not start or end well.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of `FIELDPROOF_LOG` cannot be read.
    #[error("`FIELDPROOF_LOG` is `{value}`: {reason}")]
    Filter {
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logs were set up before.
    #[error("logs are set up already")]
    Twice,
    /// The OTLP exporter cannot be built.
    #[error("cannot export metrics by OTLP: {0}")]
    Exporter(String),
}

impl Telemetry {
    /// Starts logs on standard error, filtered by `FIELDPROOF_LOG` (default `default_filter`), and
    /// metrics by OTLP if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Needs a tokio runtime.
    pub fn start(default_filter: &str) -> Result<Self, TelemetryError> {
        let value = std::env::var("FIELDPROOF_LOG").unwrap_or_else(|_| default_filter.to_owned());
        let filter = EnvFilter::try_new(&value)
            .map_err(|error| TelemetryError::Filter { value, reason: error.to_string() })?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .try_init()
            .map_err(|_| TelemetryError::Twice)?;
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
            return Ok(Self::default());
        }
        let exporter = MetricExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let meters = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter)
            .with_resource(Resource::builder().with_service_name("fieldproof").build())
            .build();
        opentelemetry::global::set_meter_provider(meters.clone());
        Ok(Self { meters: Some(meters) })
    }

    /// Sends what is left.
    pub fn shutdown(self) -> Result<(), TelemetryError> {
        match self.meters {
            Some(meters) => meters.shutdown().map_err(|error| TelemetryError::Exporter(error.to_string())),
            None => Ok(()),
        }
    }
}
