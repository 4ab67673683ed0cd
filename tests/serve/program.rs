//! The program `polar-raw serve` as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::get;
use super::fixture::save;

/// A running program over the small model, in a folder that vanishes with it.
pub struct Program {
    pub address: SocketAddr,
    pub child: Child,
    log: Option<thread::JoinHandle<String>>,
    _folder: TempDir,
}

impl Program {
    /// Starts it with more arguments and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path());
        let mut command = Command::new(env!("CARGO_BIN_EXE_polar-raw"));
        command.args(["serve", "--device", "cpu", "--port", "0", "--model"]).arg(folder.path()).args(args);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let address = first.strip_prefix("listening on http://").and_then(|rest| rest.split(": ").next());
        let address = address.unwrap_or_else(|| panic!("{first}")).parse().unwrap();
        // Read to the end, so that the program never waits for its reader.
        let log = thread::spawn(move || first + &lines.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        let program = Self { address, child, log: Some(log), _folder: folder };
        while get(program.address, "/ready").status != 200 {
            thread::sleep(Duration::from_millis(5));
        }
        program
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Its exit status and what it said, once it ends by itself.
    pub fn end(mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if begun.elapsed() > Duration::from_secs(60) => panic!("the server does not end"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end; its exit status and what it said.
pub fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_polar-raw")).args(["serve", "--port", "0"]).args(args).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
