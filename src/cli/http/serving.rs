//! What is answered where.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use super::exposition::{self, About};
use super::liveness::Liveness;
use super::{HttpAddress, text, unavailable, wanted};
use crate::cli::error::CliError;
use crate::cli::plan::Plan;
use crate::cli::processes::{Member, heartbeat_timeout};
use crate::http::{Answer, Route, Routes, Server};
use crate::runtime::metrics::Metrics;
use crate::runtime::metrics::phase::Phase;
use crate::terminal;

/// Listens where the flags say, until what it returns is dropped.
///
/// # Errors
/// When that address is taken, or none of this host.
pub fn start(
    matches: &ArgMatches,
    member: Option<&Member>,
    plan: &Plan,
    metrics: &Arc<Metrics>,
) -> Result<Option<Server>, CliError> {
    let Some(address) = wanted(matches, member)? else {
        return Ok(None);
    };
    let about = About::new(plan, member);
    let routes = routes(about, metrics, heartbeat_timeout(matches));
    let paths = routes.paths();
    let server = listen(&address, routes)?;
    if !matches.get_flag("quiet") {
        terminal::message(format_args!("http://{}: {paths}", server.address()));
    }
    Ok(Some(server))
}

fn listen(address: &HttpAddress, routes: Routes) -> Result<Server, CliError> {
    let server = Server::start((address.host.as_str(), address.port), routes);
    server.map_err(|error| unavailable(address, &error))
}

fn routes(about: About, metrics: &Arc<Metrics>, deadline: Duration) -> Routes {
    let shared = || Arc::clone(metrics);
    let (counted, watched, phased) = (shared(), shared(), shared());
    let liveness = Liveness::new(deadline);
    Routes::new(vec![
        Route::new(
            "/metrics",
            "what the run counts, for Prometheus",
            move || Answer {
                status: 200,
                content_type: text::CONTENT_TYPE,
                body: exposition::all(&about, &counted),
            },
        ),
        Route::new("/healthz", "whether the workers make steps", move || {
            let stuck = liveness.look(&watched.workers.statuses(), Instant::now());
            stuck.map_or_else(|| Answer::text(200, "ok"), |why| Answer::text(503, why))
        }),
        Route::new("/readyz", "whether the run reads its input", move || {
            let phase = phased.phase();
            let status = if phase == Phase::Reading { 200 } else { 503 };
            Answer::text(status, phase.to_string())
        }),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Resume;
    use crate::time::EventTime;

    #[test]
    fn a_run_is_ready_once_it_reads() {
        let metrics = Arc::new(Metrics::default());
        let routes = routes(About::of_test(), &metrics, Duration::from_secs(10));
        let ready = || routes.answer("GET", "/readyz");
        assert_eq!(ready().status, 503);
        metrics.begin(1, &Resume::fresh([], EventTime(0)));
        let loading = ready();
        assert_eq!(loading.status, 503);
        assert!(loading.body.contains("loading the state"), "{loading:?}");
        metrics.progressing.loaded();
        assert_eq!(ready().status, 200);
        assert_eq!(routes.answer("GET", "/healthz").status, 200);
        let metrics = routes.answer("GET", "/metrics");
        assert!(
            metrics.body.contains("\nhighwater_ready 1\n"),
            "{metrics:?}"
        );
    }
}
