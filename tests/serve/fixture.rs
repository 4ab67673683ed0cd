//! A small model with random weights, in memory and as a folder, and a server in this process over it.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use approx::abs_diff_eq;
use polar_raw::Result;
use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::data::Wrapper;
use polar_raw::eval::{Companion, Scorer};
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Model, ModelConfig, OutputHeads};
use polar_raw::polar::{CutSide, Form, TemplateConfig, encode_as_client};
use polar_raw::serve::{Compat, Info, LoadedModel, Normalisation, Options, Score, Server};
use polar_raw::store::weights;
use polar_raw::store::weights::WriteOptions;
use polar_raw::tensor::Dtype;
use polar_raw::tokenizer::{Names, Tokenizer};
use rand::RngExt;
use tokio::sync::oneshot;

pub const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };
pub const SEED: u64 = 7;

pub fn tokenizer() -> Tokenizer {
    Tokenizer::bytes(Names::default()).unwrap()
}

pub fn template() -> TemplateConfig {
    TemplateConfig { wrapper: Wrapper::Sft, max_length: 600, max_response_length: 200 }
}

pub fn config() -> ModelConfig {
    let section = ModelSection {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 1024,
        // Scores far enough apart that a wrong one is seen.
        initializer_range: 0.2,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: tokenizer().specials().score };
    ModelConfig::new(&section, tokenizer().vocab_size(), special, Architecture::RewardModel).unwrap()
}

pub fn model() -> Rc<Model> {
    let model = Model::new(Rc::new(Cpu::new()), config(), REWARD).unwrap();
    model.initialise(SEED).unwrap();
    Rc::new(model)
}

/// Writes the model as a folder.
pub fn save(dir: &Path) {
    let (model, config) = (model(), config());
    config.write(dir).unwrap();
    let target = WriteOptions::safetensors(Dtype::F32, 1 << 30);
    weights::write(dir, &config, REWARD, target, &mut |spec| model.get(model.params(), spec)).unwrap();
    tokenizer().save(dir).unwrap();
    Companion { template: template(), baselines: None }.write(dir).unwrap();
}

/// Scores of sequences by themselves, without a server.
pub fn direct(sequences: &[Vec<u32>]) -> Vec<f32> {
    let groups: Vec<_> = sequences.iter().map(|ids| vec![ids.clone()]).collect();
    Scorer::new(model(), 4096).unwrap().score(&groups).unwrap()
}

/// A prompt, a reference and a candidate.
#[derive(Clone, Debug)]
pub struct Row {
    pub prompt: String,
    pub reference: String,
    pub output: String,
}

impl Row {
    /// Short texts of all kinds of characters.
    pub fn random(random: &mut impl rand::Rng) -> Self {
        let mut text = |most: usize| {
            let length = random.random_range(0..most);
            (0..length).map(|_| ['a', 'b', ' ', '\n', 'é', '😀', '<', '|', '"'][random.random_range(0..9)]).collect()
        };
        // An empty trajectory is joined otherwise by the client than in training.
        let (prompt, reference, output): (String, String, String) = (text(60), text(30), text(50));
        Self { prompt, reference: format!("{reference}."), output: format!("{output}!") }
    }

    /// As the official client encodes it.
    pub fn encoded(&self) -> String {
        let Self { prompt, reference, output } = self;
        format!("{prompt}\n{reference}<|reward|>{prompt}\n{output}[UNUSED_TOKEN_130]")
    }

    pub fn ids(&self) -> Vec<u32> {
        let outputs = [self.output.as_str()];
        let cuts = encode_as_client(&tokenizer(), &self.prompt, &self.reference, &outputs, &template(), CutSide::Right);
        cuts.unwrap().remove(0).ids
    }
}

pub fn rows(seed: u64, count: usize) -> Vec<Row> {
    let mut random = polar_raw::rng::stream(seed, "rows", 0);
    (0..count).map(|_| Row::random(&mut random)).collect()
}

pub fn scores(rows: &[Row]) -> Vec<f32> {
    direct(&rows.iter().map(Row::ids).collect::<Vec<_>>())
}

/// Shared prefixes and other sequences in a pass round otherwise.
pub fn near(found: f64, wanted: f32) -> bool {
    abs_diff_eq!(found, f64::from(wanted), epsilon = 1e-5 * (1.0 + f64::from(wanted).abs()))
}

/// A server in this process.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

pub fn options() -> Options {
    Options {
        address: "127.0.0.1:0".parse().unwrap(),
        model: "small".into(),
        compat: Compat::Vllm,
        normalise: Normalisation::Raw,
        cors: Vec::new(),
        api_key: None,
        max_body: 1 << 20,
        connections: 256,
        queue: 64,
        cache: 1000,
        pack_length: 2048,
        timeout: Duration::from_secs(60),
        idle: Duration::from_secs(5),
        access_log: false,
    }
}

pub fn info() -> Info {
    let config = config();
    Info {
        tokenizer: tokenizer(),
        form: Form::Polar,
        template: template(),
        vocab_size: config.vocab_size,
        max_length: 700,
        weights: blake3::hash(b"small"),
        parameters: config.parameters(REWARD),
        device: "cpu".into(),
    }
}

/// What the engine computes with in these tests unless they say otherwise.
pub fn scorer() -> Score {
    let mut scorer = Scorer::new(model(), 2048).unwrap();
    Box::new(move |groups| scorer.score(groups))
}

impl Running {
    /// Serves the model and waits until it is loaded.
    pub fn new(options: Options) -> Self {
        Self::with(options, scorer)
    }

    /// Serves with what `score` makes, on the engine's thread.
    pub fn with(options: Options, score: impl FnOnce() -> Score + Send + 'static) -> Self {
        let (ready, loaded) = std::sync::mpsc::channel();
        let load = move || Ok(LoadedModel { info: info(), score: score() });
        let running = Self::started(options, load, move |_| ready.send(()).unwrap());
        loaded.recv().unwrap();
        assert_eq!(super::client::get(running.address, "/ready").status, 200, "it was called ready");
        running
    }

    /// Serves what `load` gives, and does not wait for it.
    pub fn loading(options: Options, load: impl FnOnce() -> Result<LoadedModel> + Send + 'static) -> Self {
        Self::started(options, load, |_| ())
    }

    fn started(
        options: Options,
        load: impl FnOnce() -> Result<LoadedModel> + Send + 'static,
        ready: impl FnOnce(&Info) + Send + 'static,
    ) -> Self {
        let server = Server::bind(options).unwrap();
        let address = server.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let stop = async {
                let _ = stopped.await;
            };
            server.run(load, ready, stop)
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to stop and goes on.
    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it ends; what came of it.
    pub fn outcome(mut self) -> Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell_to_stop();
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().unwrap().unwrap();
        }
    }
}
