//! `polar-raw serve`: scores over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::device::{Device, DeviceParser};
use super::model::{self, Strings};
use super::signals;
use crate::error::{Error, Result};
use crate::eval::Scorer;
use crate::files;
use crate::model::Model;
use crate::polar::Form;
use crate::serve::{Compat, Info, LoadedModel, Normalisation, Options, Server, cors, paths};
use crate::store::hub;
use crate::train::finish;

/// Answer requests for scores over HTTP.
///
/// Stands in for SGLang, vLLM and LMDeploy: POLAR's client works as it is, and so do the reward forms of OpenRLHF and
/// slime. Requests of all connections are computed together, what they have in common once; scores are remembered, so
/// that a request sent again costs little. /openapi.json describes every path.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw serve --model runs/quickstart/model
  curl -s http://127.0.0.1:30000/v1/score -d '{\"prompt\": \"2 + 2?\", \"reference\": \"4\", \"candidates\": [\"Four.\", \"5\"]}'

SIGTERM, Ctrl-C, SIGHUP and SIGUSR1 answer what is in flight and end with status 0; a second\nSIGTERM or Ctrl-C ends at once.")]
pub struct ServeArgs {
    /// The model's folder, such as runs/NAME/model, or its name on the Hugging Face Hub, from the local cache.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Address to listen on; 0.0.0.0 is all of this machine's.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 30000)]
    port: u16,
    /// What strings are. A model that is not of POLAR's form answers /classify and /pooling, with its own strings.
    /// [default: what the model was trained on: polar, or else its chat template]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Whose reply /pooling gives; /vllm/pooling and /lmdeploy/pooling are there in any case.
    #[arg(long, value_enum, default_value_t)]
    compat: Compat,
    /// What /v1/score adds unless its request says, and what the other endpoints answer in the place of raw scores.
    #[arg(long, value_enum, default_value_t)]
    normalise: Normalisation,
    /// An origin, such as http://localhost:3000, whose pages may ask from a browser, or * for any; may be repeated.
    #[arg(long, value_name = "ORIGIN", value_parser = cors::check)]
    cors: Vec<String>,
    /// A file with the key that requests must bear (Authorization: Bearer KEY). /health and /ready need none.
    #[arg(long, value_name = "FILE", conflicts_with = "api_key_env")]
    api_key_file: Option<PathBuf>,
    /// The environment variable with that key.
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// The model's name in answers. [default: the folder's]
    #[arg(long, value_name = "NAME", alias = "model-name")]
    served_model_name: Option<String>,
    /// The largest body in MiB; all bodies together take at most four times that.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_body: u32,
    /// Connections at a time, half of them of one address; others get 429, or /health, /ready and /metrics.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    connections: u32,
    /// Requests that wait or are computed, half of them of one address; more are refused with 429.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    queue: u32,
    /// Scores to remember, at about 100 bytes each; 0 for none.
    #[arg(long, value_name = "SCORES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(0..=1 << 28))]
    cache: u32,
    /// Tokens of one pass, at most, unless a sequence is longer; more take more memory.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pack_length: u32,
    /// The longest sequence that is taken, in tokens. [default: the model's own, and a sixteenth for text that got
    /// longer by being cut and encoded again]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(8..=1 << 24))]
    max_length: Option<u32>,
    /// Seconds that a request may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
    /// Write a line to the standard error for each answer.
    #[arg(long)]
    access_log: bool,
    /// What computes; one of the devices of this build.
    #[arg(long, default_value = "auto", value_parser = DeviceParser)]
    device: Device,
}

/// The longest pause within a request, or in reading its answer.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes of a key, at most.
const MAX_KEY: u64 = 4096;

/// Serves until it is told to stop.
pub fn run(args: ServeArgs) -> Result<()> {
    let options = Options {
        address: SocketAddr::new(args.host, args.port),
        model: args.served_model_name.clone().unwrap_or_else(|| folder_name(&args.model)),
        compat: args.compat,
        normalise: args.normalise,
        cors: args.cors.clone(),
        api_key: api_key(&args)?,
        max_body: (args.max_body as usize) << 20,
        connections: args.connections as usize,
        queue: args.queue as usize,
        cache: args.cache as usize,
        pack_length: args.pack_length as usize,
        timeout: Duration::from_secs(args.timeout),
        idle: IDLE,
        access_log: args.access_log,
    };
    let open = !args.host.is_loopback() && options.api_key.is_none();
    let name = options.model.clone();
    let server = Server::bind(options)?;
    let address = server.address()?;
    let paths: Vec<&str> = paths().map(|(_, path)| path).collect();
    tracing::info!("listening on http://{address}: {}", paths.join(" "));
    if open {
        tracing::warn!("whoever reaches {} may use this server; --api-key-file asks for a key", args.host);
    }
    let ready = move |Info { parameters, device, max_length, .. }: &Info| {
        let millions = *parameters as f64 / 1e6;
        tracing::info!(
            "ready: {name}, {millions:.1} M parameters, on {device}, sequences of up to {max_length} tokens"
        );
    };
    server.run(move || load(&args), ready, stopped())
}

/// Resolves at the first SIGTERM, Ctrl-C, SIGHUP or SIGUSR1; a later SIGTERM or Ctrl-C ends the program.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("cannot listen for signals: they end the program at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = heard(SignalKind::hangup()) => {}
        () = heard(SignalKind::user_defined1()) => {}
    }
    tracing::info!("stopping: what is in flight is answered; a second SIGTERM or Ctrl-C ends at once");
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
}

/// Resolves when the signal comes, unless it was ignored when the program began.
async fn heard(kind: SignalKind) {
    if signals::is_ignored(kind.as_raw_value()) {
        return std::future::pending().await;
    }
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// What the model is called: its folder, or the run's, in which every model's folder has the same name.
fn folder_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let of_run = dir.parent().filter(|_| dir.ends_with(finish::MODEL)).filter(|run| run.file_name().is_some());
    of_run.unwrap_or(&dir).file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

fn api_key(args: &ServeArgs) -> Result<Option<String>> {
    let (place, text) = match (&args.api_key_file, &args.api_key_env) {
        (Some(path), _) => (path.display().to_string(), files::read_text(path, MAX_KEY)?),
        (None, Some(name)) => {
            let missing = |error| Error::user(format!("--api-key-env {name}: {error}"));
            (name.clone(), std::env::var(name).map_err(missing)?)
        }
        (None, None) => return Ok(None),
    };
    let key = text.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::user(format!("{place}: a key is one line of ASCII letters, digits and signs")));
    }
    Ok(Some(key.to_owned()))
}

fn load(args: &ServeArgs) -> Result<LoadedModel> {
    let dir = hub::locate(&args.model)?;
    let opened = model::open(&dir, || args.device.open())?;
    let Strings { tokenizer, form, .. } = model::strings(&dir, &opened.model, args.form)?;
    let (config, mut template) = (opened.model.config(), opened.companion.template);
    let most = config.max_position_embeddings;
    let own = template.max_length + template.max_length / 16;
    let max_length = args.max_length.map_or(own.min(most), |length| length as usize);
    if max_length > most {
        return Err(Error::user(format!(
            "--max-length {max_length}: the model reads at most max_position_embeddings = {most}"
        )));
    }
    template.max_length = template.max_length.min(max_length);
    let info = Info {
        tokenizer,
        form,
        template,
        vocab_size: config.vocab_size,
        max_length,
        weights: hash(&opened.model)?,
        parameters: config.parameters(opened.model.outputs()),
        device: opened.model.backend().name(),
    };
    let mut scorer = Scorer::new(opened.model, max_length.max(args.pack_length as usize))?;
    Ok(LoadedModel { info, score: Box::new(move |groups| scorer.score(groups)) })
}

/// BLAKE3 of the weights as they are computed with.
fn hash(model: &Model) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for spec in model.specs() {
        hasher.update(spec.name.as_bytes());
        hasher.update_rayon(bytemuck::cast_slice(&model.get(model.params(), spec)?));
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_folder_or_its_run() {
        let place = tempfile::tempdir().unwrap();
        for (folder, name) in [("runs/birds/model", "birds"), ("llama-rm", "llama-rm"), ("model", "model")] {
            let folder = place.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            let expected =
                if name == "model" { place.path().file_name().unwrap().to_string_lossy() } else { name.into() };
            assert_eq!(folder_name(&folder), expected);
        }
        assert_eq!(folder_name(Path::new("somebody/their-model")), "their-model");
    }
}
