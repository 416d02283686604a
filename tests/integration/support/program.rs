//! Other programs: run to their end, or killed with the test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, oneshot};

use super::within;

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// What it wrote to both outputs, if it succeeded.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout + &self.stderr
    }
}

/// Runs a program to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Outcome {
    run_with(program, arguments, b"").await
}

/// The same with something to read, little enough to be written at once.
pub(crate) async fn run_with<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: &[S],
    input: &[u8],
) -> Outcome {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(input).unwrap();
    drop(writer);
    let mut command = Command::new(program);
    command.args(arguments).stdin(reader);
    let (tell, ended) = oneshot::channel();
    // Its output is read while it runs, and the test goes on.
    std::thread::spawn(move || tell.send(command.output()));
    let output = within("the program ends", ended).await.unwrap().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The program itself, run to its end.
pub(crate) async fn lockgate<S: AsRef<OsStr>>(arguments: &[S]) -> Outcome {
    run(env!("CARGO_BIN_EXE_lockgate"), arguments).await
}

/// A program that runs as long as this lives.
pub(crate) struct Service {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Service {
    /// Starts it.
    pub(crate) fn start<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (tell, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Read on, so that it never blocks, when nobody listens any more.
                let _ = tell.send(line);
            }
        });
        Self { child, lines }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line of its standard output that holds `part`.
    pub(crate) async fn line(&mut self, part: &str) -> String {
        within(&format!("a line with {part:?}"), async {
            loop {
                let line = self.lines.recv().await.expect("it has ended");
                if line.contains(part) {
                    return line;
                }
            }
        })
        .await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
