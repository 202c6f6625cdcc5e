//! The command line: serve, train, data, template, eval, demo, and the hidden worker.

mod demo;
mod run_args;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The executable's allocator.
pub use ::engine::allocator::Allocator;
use clap::{Args, Parser, Subcommand};
use run::config::{Config, ConfigError, Notice, Purpose};
use run::dir::RunDir;
use run::exit::ExitCode as RunExit;
use run::runfile::RunFile;

use crate::config::{PublicUrl, ServerConfig, base_path};
use crate::lifecycle::{Server, StartError, stop_on_signals};
use crate::worker::{Order, Role, engine};
use crate::{telemetry, worker};

/// LLM fine-tuning as one program: dashboard, queue and training engine.
#[derive(Parser)]
#[command(name = "tallow", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Start the dashboard (what `tallow` alone does).
    Serve(ServeArgs),
    /// Train: CONFIG.yaml [key=value ...], or LLaMA-Factory's flags (--stage sft --do_train True ...).
    #[command(after_long_help = run_args::explained())]
    Train(RunArgs),
    /// Print the encoded rows, one JSON object a line: input_ids, labels and their text.
    Data(RunArgs),
    /// List the chat templates, or show one: its slots, flags, stop words and a sample.
    Template(TemplateArgs),
    /// Print the loss on eval_dataset, the val_size split, or dataset; JSON on the last line.
    Eval(RunArgs),
    /// Print how much memory a run will take, part by part; JSON on the last line.
    Estimate(RunArgs),
    /// Train some steps (--steps N) and print tokens/s, GFLOP/s, share of the ceiling and memory.
    Bench(RunArgs),
    /// Start the dashboard, queue the sample run and follow it here.
    Demo(ServeArgs),
    /// One run on behalf of the server.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// The server's settings.
#[derive(Args, Clone)]
struct ServeArgs {
    /// Address to listen on; anything but loopback asks for a token.
    #[arg(long, env = "TALLOW_HOST", default_value = "127.0.0.1", value_parser = host)]
    host: IpAddr,
    /// Port; 0 takes any free one.
    #[arg(long, env = "TALLOW_PORT", default_value_t = 7860)]
    port: u16,
    /// Folder for the database, runs and data sets; made where it is missing.
    #[arg(long, env = "TALLOW_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// A folder from which runs may read models and data sets, besides the data folder; may be repeated.
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
    /// The address that people use, where a proxy stands in front: https://tune.example.org
    #[arg(long, env = "TALLOW_PUBLIC_URL", value_name = "URL")]
    public_url: Option<PublicUrl>,
    /// The part of the address that a proxy in front gives to this server: /tuner
    #[arg(long, env = "TALLOW_BASE_PATH", value_name = "PATH", default_value = "", value_parser = base_path)]
    base_path: String,
    /// How many runs train at a time.
    #[arg(long, env = "TALLOW_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Let webhooks go to addresses of this machine and its own network, and over plain http.
    #[arg(long, env = "TALLOW_PRIVATE_WEBHOOKS")]
    private_webhooks: bool,
}

#[derive(Args)]
struct RunArgs {
    /// CONFIG.{yaml,yml,json} [key=value ...] [--threads N], or --key value ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    words: Vec<String>,
}

#[derive(Args)]
struct TemplateArgs {
    /// The template to show; left out, all are listed.
    name: Option<String>,
    /// Show it (the default where a name is given).
    #[arg(long)]
    show: bool,
}

#[derive(Args)]
struct WorkerArgs {
    run_dir: PathBuf,
    #[arg(long, default_value_t = 0)]
    after_wish: u64,
    #[arg(long)]
    resume: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command: Some(command), .. }) => command,
        Ok(Cli { command: None, serve }) => Command::Serve(serve),
        Err(error) => {
            let wrong = error.use_stderr();
            let _ = error.print();
            return if wrong { exit(RunExit::BadInput) } else { ExitCode::SUCCESS };
        }
    };
    match command {
        Command::Serve(args) => serve(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Train(args) => train(&args),
        Command::Data(args) => data(&args),
        Command::Template(args) => template(&args),
        Command::Eval(args) => eval(&args),
        Command::Estimate(args) => estimate(&args),
        Command::Bench(args) => bench(&args),
        Command::Worker(args) => work(&args),
    }
}

impl ServeArgs {
    fn config(&self) -> ServerConfig {
        let worker_bin =
            std::env::var_os("WORKER_BIN").unwrap_or_else(|| OsString::from("/proc/self/exe"));
        ServerConfig {
            host: self.host,
            port: self.port,
            data_dir: self.data_dir.clone(),
            allow_paths: self.allow_path.clone(),
            public_url: self.public_url.clone(),
            base_path: self.base_path.clone(),
            workers: usize::from(self.workers),
            private_webhooks: self.private_webhooks,
            worker_bin: PathBuf::from(worker_bin),
        }
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    telemetry::start();
    let config = args.config();
    in_runtime(async {
        let server = match Server::bind(config).await {
            Ok(server) => server,
            Err(error) => return refused(&error),
        };
        greet(&server);
        let stop = server.state.stop.clone();
        let listening = stop_on_signals(stop);
        match listening.and(server.serve().await) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

/// Says where the dashboard is; the token only when it was made just now.
fn greet(server: &Server) {
    let config = &server.state.config;
    let address = match &config.public_url {
        Some(url) => format!("{}{}", url.origin, config.base_path),
        None => format!("http://localhost:{}{}", config.port, config.base_path),
    };
    say_line!("Tallow is at {address}");
    say_line!("data folder: {}", config.data_dir.display());
    if config.wants_token() {
        say_line!(
            "listening on {}:{}; every page asks for the token in {}",
            config.host,
            config.port,
            config.data_dir.join("token").display()
        );
        if config.public_url.is_none() {
            say_line!("it answers to loopback names only; give --public-url for another one");
        }
    }
    if let Some(token) = &server.fresh_token {
        say_line!("token (shown this once): {token}");
    }
    say_line!("ready on port {}", config.port);
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(work);
    // a blocked thread must not keep a server that was told to stop
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

/// Each open page holds a connection; 1024 files are soon used up.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum.or(Some(65_536)), ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn train(args: &RunArgs) -> ExitCode {
    let (config, notices, source) = match run_args::read(&args.words, Purpose::Train) {
        Ok(read) => read,
        Err(error) => return wrong(&error),
    };
    let dir = RunDir::new(config.output_dir.clone().unwrap_or_default());
    let order = Order { dir, config, notices, role: Role::Terminal { source } };
    exit(worker::work(order, engine::train))
}

fn work(args: &WorkerArgs) -> ExitCode {
    let dir = RunDir::new(&args.run_dir);
    let read = RunFile::read(&dir).map_err(|error| error.to_string());
    let read = read.and_then(|file| {
        let (mut config, notices) =
            Config::from_map(&file.config).map_err(|error| error.to_string())?;
        config.output_dir = Some(args.run_dir.display().to_string());
        Ok((config, notices))
    });
    let (config, notices) = match read {
        Ok(read) => read,
        Err(error) => {
            warn_line!("{error}");
            return exit(RunExit::BadInput);
        }
    };
    let role = Role::Server { after_wish: args.after_wish, resume: args.resume };
    exit(worker::work(Order { dir, config, notices, role }, engine::train))
}

fn data(args: &RunArgs) -> ExitCode {
    let (words, limit) = match run_args::take_count("limit", &args.words) {
        Ok(taken) => taken,
        Err(error) => return wrong(&error),
    };
    match run_args::read(&words, Purpose::Data) {
        Ok((config, notices, _)) => report(&notices, || engine::rows(&config, limit)),
        Err(error) => wrong(&error),
    }
}

fn template(args: &TemplateArgs) -> ExitCode {
    match &args.name {
        Some(name) => report(&[], || engine::show_template(name)),
        None if args.show => {
            warn_line!("--show wants the name of a template; `tallow template` lists them");
            exit(RunExit::BadInput)
        }
        None => report(&[], engine::list_templates),
    }
}

fn eval(args: &RunArgs) -> ExitCode {
    match run_args::read(&args.words, Purpose::Eval) {
        Ok((config, notices, _)) => report(&notices, || engine::eval(&config)),
        Err(error) => wrong(&error),
    }
}

fn estimate(args: &RunArgs) -> ExitCode {
    match run_args::read(&args.words, Purpose::Train) {
        Ok((config, notices, _)) => report(&notices, || engine::estimate(&config)),
        Err(error) => wrong(&error),
    }
}

fn bench(args: &RunArgs) -> ExitCode {
    let (words, steps) = match run_args::take_count("steps", &args.words) {
        Ok(taken) => taken,
        Err(error) => return wrong(&error),
    };
    match run_args::read(&words, Purpose::Train) {
        Ok((config, notices, _)) => {
            report(&notices, || engine::bench(&config, steps.map(|n| n as u64)))
        }
        Err(error) => wrong(&error),
    }
}

/// Says what has no effect, then does the work: the result stands last.
fn report(notices: &[Notice], work: impl FnOnce() -> Result<(), worker::Failure>) -> ExitCode {
    for notice in notices {
        warn_line!("{}", notice.text);
    }
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            warn_line!("{}", failure.message);
            exit(failure.code)
        }
    }
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        other => other
            .parse()
            .map_err(|_| format!("`{other}` is no IP address; 0.0.0.0 means all of them")),
    }
}

fn exit(code: RunExit) -> ExitCode {
    ExitCode::from(u8::try_from(code.code()).unwrap_or(1))
}

fn wrong(error: &ConfigError) -> ExitCode {
    warn_line!("{error}");
    exit(RunExit::BadInput)
}

fn refused(error: &StartError) -> ExitCode {
    warn_line!("{error}");
    match error {
        StartError::Held { .. } => exit(RunExit::Locked),
        _ => ExitCode::FAILURE,
    }
}

fn failed(error: &std::io::Error) -> ExitCode {
    warn_line!("{error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }
}
