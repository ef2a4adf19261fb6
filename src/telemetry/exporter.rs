//! Sends traces and metrics as OTLP over HTTP.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, time::Duration};

use anyhow::{Context, Result};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::metrics::PeriodicReader;
use tokio::runtime::Handle;
use url::Url;

/// Longest time for one export.
const EXPORT_MAX: Duration = Duration::from_secs(10);
/// A receiver's answer is a short status message.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Exporters {
    pub(super) spans: SpanExporter,
    pub(super) metrics: MetricExporter,
}

/// Builds the exporters for the receiver at `endpoint`.
pub(super) fn build(endpoint: &Url, headers: Vec<(String, String)>) -> Result<Exporters> {
    let headers: HashMap<String, String> = headers.into_iter().collect();
    let client = Receiver {
        runtime: Handle::current(),
        http: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(EXPORT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the telemetry client cannot be built")?,
    };
    let base = endpoint.as_str().trim_end_matches('/');
    let spans = SpanExporter::builder()
        .with_http()
        .with_http_client(client.clone())
        .with_endpoint(format!("{base}/v1/traces"))
        .with_headers(headers.clone())
        .with_timeout(EXPORT_MAX)
        .build()
        .context("the trace exporter cannot be built")?;
    let metrics = MetricExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{base}/v1/metrics"))
        .with_headers(headers)
        .with_timeout(EXPORT_MAX)
        .build()
        .context("the metric exporter cannot be built")?;
    Ok(Exporters { spans, metrics })
}

/// Collects metrics every `interval`.
pub(super) fn reader(exporter: MetricExporter, interval: Duration) -> PeriodicReader<MetricExporter> {
    PeriodicReader::builder(exporter).with_interval(interval).build()
}

/// The SDK exports from threads of its own, which know no runtime: requests are handed to ours.
#[derive(Clone)]
struct Receiver {
    runtime: Handle,
    http: reqwest::Client,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Receiver")
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Receiver {
    fn send_bytes<'this, 'answer>(&'this self, request: Request<Bytes>) -> Answer<'answer>
    where
        'this: 'answer,
        Self: 'answer,
    {
        let http = self.http.clone();
        let task = self.runtime.spawn(async move { send(&http, request).await });
        Box::pin(async move { task.await? })
    }
}

async fn send(http: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut reply = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err("the receiver's answer is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    let mut answer = Response::builder().status(reply.status());
    if let Some(headers) = answer.headers_mut() {
        *headers = reply.headers().clone();
    }
    Ok(answer.body(body.into())?)
}
