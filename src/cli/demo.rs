//! `tallow demo`: the dashboard, the sample run, and its log here.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use super::{ServeArgs, exit, failed, greet, in_runtime, refused};
use crate::db::runs::{self, RunRow, Status};
use crate::db::{DbError, events};
use crate::lifecycle::{Server, StartError, stop_on_signals};
use crate::telemetry;
use crate::web::state::AppState;

/// Should a bell be missed.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn demo(args: &ServeArgs) -> ExitCode {
    telemetry::start();
    let config = args.config();
    in_runtime(async {
        let mut bound = Server::bind(config.clone()).await;
        if let Err(StartError::Io { source, .. }) = &bound
            && source.kind() == std::io::ErrorKind::AddrInUse
        {
            warn_line!("port {} is in use; another one is taken", config.port);
            bound = Server::bind(crate::config::ServerConfig { port: 0, ..config }).await;
        }
        let server = match bound {
            Ok(server) => server,
            Err(error) => return refused(&error),
        };
        greet(&server);
        let state = server.state.clone();
        if let Err(error) = stop_on_signals(state.stop.clone()) {
            return failed(&error);
        }
        let serving = tokio::spawn(server.serve());
        let outcome = follow(&state).await;
        // somebody at a terminal wants to look at the page now
        if outcome.is_ok() && std::io::stdout().is_terminal() && !state.stop.is_cancelled() {
            say_line!("The dashboard goes on; Ctrl-C ends it.");
            state.stop.cancelled().await;
        }
        state.stop.cancel();
        let _ = serving.await;
        match outcome {
            Ok(Status::Finished) => ExitCode::SUCCESS,
            Ok(status) => {
                say_line!("the sample run is {status}");
                exit(if status.is_over() {
                    run::exit::ExitCode::Bug
                } else {
                    run::exit::ExitCode::Stopped
                })
            }
            Err(error) => {
                warn_line!("{error}");
                exit(run::exit::ExitCode::BadInput)
            }
        }
    })
}

/// Queues the sample run and prints its log until it is over or the server stops.
async fn follow(state: &AppState) -> Result<Status, String> {
    let row = state.jobs.demo(None).await.map_err(|error| error.to_string())?;
    say_line!("sample run: {}/runs/{}", address(state), row.id);
    let mut bell = state.jobs.doorbell(&row.id);
    let mut seen = 0;
    let told = |error: DbError| error.to_string();
    loop {
        bell.borrow_and_update();
        for event in events::after(&state.db, row.num, seen, 1000).await.map_err(told)? {
            seen = event.seq;
            print_log(&event);
        }
        let now = runs::get(&state.db, &row.id).await.map_err(told)?;
        let Some(now) = now else {
            return Ok(Status::Lost);
        };
        if now.seq <= seen && now.status.is_over() {
            tell_end(&now);
            return Ok(now.status);
        }
        tokio::select! {
            () = state.stop.cancelled() => return Ok(now.status),
            _ = bell.changed() => {}
            () = tokio::time::sleep(PATIENCE) => {}
        }
    }
}

fn address(state: &AppState) -> String {
    format!("http://localhost:{}", state.config.port)
}

fn print_log(event: &events::EventRow) {
    if event.kind != "log" {
        return;
    }
    let lines: Vec<serde_json::Value> = serde_json::from_str(&event.body).unwrap_or_default();
    for line in lines.iter().filter_map(|line| line["text"].as_str()) {
        say_line!("  {line}");
    }
}

fn tell_end(run: &RunRow) {
    let reason = run.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    say_line!("{}{reason}; its files are in {}", run.status, run.output_dir);
}
