//! Starting and stopping.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{Addresses, App, Summary},
    certificates::{Authorities, CertificateKind},
    control,
    effects::{EffectFilter, EffectRow},
    faults::FaultRule,
    listener::{Connection, Listener},
    locked::locked,
    options::SimOptions,
    pipeline,
    settings::Settings,
};

/// Connections the mute listener holds before it lets the oldest go.
const MUTE_HELD_MAX: usize = 1024;

/// A TLS listener and what is wrong with its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsEndpoint {
    /// What is wrong, or [`CertificateKind::Good`].
    pub kind: CertificateKind,
    /// Where it listens.
    pub address: SocketAddr,
}

impl TlsEndpoint {
    /// `https://` and the address.
    pub fn url(&self) -> String {
        format!("https://{}", reachable(self.address))
    }
}

/// A running simulator. Dropping it stops it; [`Simulator::stop`] also waits until its ports are free.
#[derive(Debug)]
pub struct Simulator {
    app: Arc<App>,
    addresses: Addresses,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Simulator {
    /// Binds the listeners and starts serving on the current tokio runtime.
    ///
    /// # Errors
    /// Where a port cannot be bound, a setting or fault rule is wrong, a host name cannot stand in a certificate, or
    /// `ca_file` cannot be written.
    pub async fn start(options: SimOptions) -> anyhow::Result<Self> {
        options.settings.check()?;
        options.faults.iter().try_for_each(FaultRule::check)?;
        let app = Arc::new(App::new(options));
        app.faults.add(app.options.faults.clone(), app.clock.now_ms())?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        // From here on an early return must not leave listeners behind.
        let guard = stop.clone().drop_guard();
        let router = control::router().fallback(pipeline::serve).with_state(app.clone());
        let options = &app.options;

        let plain = bind(options.bind_ip, options.port).await?;
        let mut addresses =
            Addresses { plain: plain.local_addr()?, tls: Vec::new(), mute: None, ca_pem: String::new() };
        let listener = Listener::start(plain, None, &stop, &tasks)?;
        serve(listener, router.clone(), &stop, &tasks);
        let authorities = Authorities::generate(&options.host_names)?;
        addresses.ca_pem = authorities.pem().to_owned();
        if options.tls {
            for kind in CertificateKind::ALL {
                let port = if kind == CertificateKind::Good { options.tls_port } else { 0 };
                let tcp = bind(options.bind_ip, port).await?;
                addresses.tls.push(TlsEndpoint { kind, address: tcp.local_addr()? });
                let listener = Listener::start(tcp, Some(authorities.acceptor(kind)?), &stop, &tasks)?;
                serve(listener, router.clone(), &stop, &tasks);
            }
            let tcp = bind(options.bind_ip, 0).await?;
            addresses.mute = Some(tcp.local_addr()?);
            hold_mute(tcp, &stop, &tasks);
        }
        if let Some(file) = &options.ca_file {
            std::fs::write(file, authorities.pem())
                .with_context(|| format!("write the authority's certificate to {}", file.display()))?;
        }
        // Set before anybody can know the address; a second value is impossible.
        let _ = app.addresses.set(addresses.clone());
        guard.disarm();
        Ok(Self { app, addresses, stop, tasks })
    }

    /// Stops serving, drops every connection, and waits until the ports are free.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Where the plain listener listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses.plain
    }

    /// `http://` and the plain address. Every system answers under it; `/cxone`, `/genesys` and `/crm` before a path
    /// say which one is meant where the path alone does not.
    pub fn base_url(&self) -> String {
        format!("http://{}", reachable(self.addresses.plain))
    }

    /// The TLS listeners, all serving the same as the plain one. Empty where TLS is off.
    pub fn tls_endpoints(&self) -> &[TlsEndpoint] {
        &self.addresses.tls
    }

    /// `https://` and the address of the listener with this certificate, where TLS is on.
    pub fn tls_url(&self, kind: CertificateKind) -> Option<String> {
        self.addresses.tls.iter().find(|endpoint| endpoint.kind == kind).map(TlsEndpoint::url)
    }

    /// A listener that accepts connections and never says a word, where TLS is on.
    pub fn mute_address(&self) -> Option<SocketAddr> {
        self.addresses.mute.map(reachable)
    }

    /// The certificate of the authority behind the good, expired, wrong-host and not-yet-valid ones.
    pub fn ca_pem(&self) -> &str {
        &self.addresses.ca_pem
    }

    /// Counts since start or reset.
    pub fn summary(&self) -> Summary {
        self.app.summary()
    }

    /// The newest `limit` rows of the ledger of effects, oldest first.
    pub fn effects(&self, limit: usize) -> Vec<EffectRow> {
        locked(&self.app.world).effects.list(&EffectFilter::default(), limit)
    }

    /// Adds fault rules after those in force.
    ///
    /// # Errors
    /// Where a rule is wrong or there would be too many.
    pub fn add_faults(&self, rules: Vec<FaultRule>) -> anyhow::Result<()> {
        rules.iter().try_for_each(FaultRule::check)?;
        self.app.faults.add(rules, self.app.clock.now_ms())
    }

    /// Removes every fault rule.
    pub fn clear_faults(&self) {
        self.app.faults.remove(None);
    }

    /// Changes the behaviour of the simulated systems.
    ///
    /// # Errors
    /// Where a setting is out of range.
    pub fn set_settings(&self, settings: Settings) -> anyhow::Result<()> {
        settings.check()?;
        self.app.set_settings(settings);
        Ok(())
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.app.settings().as_ref().clone()
    }

    /// Revokes the current tokens of a tenant, or of all; answers how many. The next call with one gets 401.
    pub fn revoke_tokens(&self, tenant: Option<&str>) -> usize {
        self.app.tokens.revoke(tenant)
    }

    /// Moves the simulator's clock, on which tokens expire and rate limits run.
    pub fn advance_clock(&self, by_ms: i64) {
        self.app.clock.advance(by_ms);
    }

    /// Forgets requests, effects, documents and faults. Settings, clients and tokens stay.
    pub fn reset(&self) {
        self.app.reset(false);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((ip, port)).await.with_context(|| format!("the simulator cannot listen on {ip}:{port}"))
}

/// A wildcard address is no address to call.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

fn serve(listener: Listener, router: Router, stop: &CancellationToken, tasks: &TaskTracker) {
    let service = router.into_make_service_with_connect_info::<Connection>();
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            // It serves until it is dropped; its own errors are per connection and dealt with there.
            _ = axum::serve(listener, service) => {}
        }
    });
}

fn hold_mute(tcp: TcpListener, stop: &CancellationToken, tasks: &TaskTracker) {
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut held = VecDeque::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = tcp.accept() => {
                    if let Ok((socket, _)) = accepted {
                        held.push_back(socket);
                    }
                    if held.len() > MUTE_HELD_MAX {
                        held.pop_front();
                    }
                }
            }
        }
    });
}
