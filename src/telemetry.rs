//! Logs, traces and metrics of the process.
//!
//! Logs go to standard error, for people on a terminal and as JSON otherwise. Traces and metrics go to an
//! OpenTelemetry receiver when one is configured; without one nothing is collected and nothing is sent.

mod exporter;

use std::{collections::HashMap, env, io::IsTerminal, time::Duration};

use anyhow::{Context, Result, anyhow};
use backhaul_engine::QUIET_LOGS;
use opentelemetry::{
    KeyValue, global,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TracerProvider,
};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, filter::dynamic_filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};
use uuid::Uuid;

use crate::config::{LogFormat, TelemetrySection};

/// Longest wait for the last spans and metrics to leave when the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// Spans of these crates are never exported: the exporter itself makes HTTP requests, and would report on those.
const NOT_EXPORTED: [&str; 6] = ["hyper", "reqwest", "rustls", "h2", "opentelemetry", "tower"];

/// Keeps the exporters alive. [`Telemetry::stop`] sends what they still hold.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts logging, and exporting if it is configured. Must be called within the runtime, once a process.
    pub(crate) fn start(settings: &TelemetrySection) -> Result<Self> {
        let (traces, metrics) = match &settings.otlp_endpoint {
            Some(endpoint) => {
                let resource = Resource::builder()
                    .with_service_name(settings.service_name.clone())
                    .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                    .with_attribute(KeyValue::new("service.instance.id", Uuid::new_v4().to_string()))
                    .build();
                let exporters = exporter::build(endpoint, settings.otlp_header_pairs())?;
                let traces = SdkTracerProvider::builder()
                    .with_batch_exporter(exporters.spans)
                    // A trace that began elsewhere follows its beginner's choice.
                    .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
                    .with_resource(resource.clone())
                    .build();
                let metrics = SdkMeterProvider::builder()
                    .with_reader(exporter::reader(exporters.metrics, settings.export_interval))
                    .with_resource(resource)
                    .build();
                global::set_tracer_provider(traces.clone());
                global::set_meter_provider(metrics.clone());
                (Some(traces), Some(metrics))
            }
            None => (None, None),
        };
        global::set_text_map_propagator(TraceContextPropagator::new());
        let exported = traces.as_ref().map(|traces| {
            // Asked for every event, though its answer is always the same: where both layers' filters are never asked
            // again, what one was asked last, by a crate that only wants to know, decides about the next line of the log.
            let filter = dynamic_filter_fn(|metadata, _| is_exported(metadata));
            tracing_opentelemetry::layer().with_tracer(traces.tracer("backhaul")).with_filter(filter)
        });
        tracing_subscriber::registry()
            .with(log_layer(settings)?)
            .with(exported)
            .try_init()
            .context("logging was started twice")?;
        Ok(Self { traces, metrics })
    }

    /// Sends what is still held, at most [`FLUSH_MAX`] for each kind. Blocks, so it must not run on the runtime.
    pub(crate) fn stop(self) {
        let traces = self.traces.map(|traces| traces.shutdown_with_timeout(FLUSH_MAX));
        let metrics = self.metrics.map(|metrics| metrics.shutdown_with_timeout(FLUSH_MAX));
        for result in [traces, metrics].into_iter().flatten() {
            if let Err(error) = result {
                tracing::warn!(%error, "the last telemetry could not be sent");
            }
        }
    }
}

/// The filter of the log: BACKHAUL_LOG wins over RUST_LOG, and both over the settings.
fn log_layer<S>(settings: &TelemetrySection) -> Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let given =
        ["BACKHAUL_LOG", "RUST_LOG"].iter().find_map(|name| env::var(name).ok().filter(|text| !text.is_empty()));
    let directives = given.as_deref().unwrap_or(&settings.log);
    let filter = EnvFilter::try_new(format!("{QUIET_LOGS},{directives}"))
        .map_err(|error| anyhow!("the log filter {directives:?}: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    Ok(if json {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).with_filter(filter).boxed()
    } else {
        layer.compact().with_ansi(terminal).with_filter(filter).boxed()
    })
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    let name = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= tracing::Level::INFO && !NOT_EXPORTED.contains(&name)
}

/// W3C trace context of the current span, for a job that is enqueued here. None when traces are off.
pub(crate) fn traceparent() -> Option<String> {
    let mut carrier = Carrier::default();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.0.remove("traceparent")
}

/// Makes the current span a child of `traceparent`, as a caller's environment gives it.
pub(crate) fn continue_trace(span: &Span, traceparent: &str) {
    let carrier = Carrier(HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]));
    // Without an exporter there is no layer that could take a parent, and nothing is lost.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}

#[derive(Debug, Default)]
struct Carrier(HashMap<String, String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key.to_owned(), value);
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
