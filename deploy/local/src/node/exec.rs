//! `kubectl exec`: a command in a running container, with its streams as channels of one WebSocket.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::SinkExt;
use futures::stream::{SplitStream, StreamExt};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::container::{exit_code, join};
use super::pod::Live;

/// Protocols in the order of preference: the fifth version can close standard input.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Bytes read at once, and messages that wait for a slow client.
const CHUNK: usize = 16 * 1024;
const QUEUE: usize = 16;

/// What to run and which streams the client wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The client sends standard input.
    pub stdin: bool,
    /// A terminal instead of pipes; standard error is then part of the output.
    pub tty: bool,
}

impl ExecOptions {
    /// From the query of the request.
    pub fn parse(query: &str) -> Self {
        let mut options = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let on = matches!(&*value, "true" | "1");
            match &*key {
                "command" => options.command.push(value.into_owned()),
                "stdin" => options.stdin = on,
                "tty" => options.tty = on,
                _ => {}
            }
        }
        options
    }
}

/// The running command, its input and, where it has one, its terminal.
struct Running {
    child: tokio::process::Child,
    input: Option<Input>,
    terminal: Option<OwnedFd>,
}

type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// Runs the command to its end, or until the client leaves, and reports its exit on the error channel.
pub async fn serve(socket: WebSocket, live: Live, options: ExecOptions) {
    let (mut socket, incoming) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(QUEUE);
    let Running { mut child, input, terminal } = match start(&live, &options, sender) {
        Ok(running) => running,
        Err(error) => {
            drop(socket.send(frame(ERROR, failure(&error.to_string(), None))).await);
            drop(socket.send(goodbye()).await);
            return;
        }
    };
    // A task of its own: a command that does not take its input for now can still be heard.
    let mut client = tokio::spawn(listen(incoming, input, terminal));
    let mut draining = true;
    let mut exit = None;
    while draining || exit.is_none() {
        tokio::select! {
            message = outgoing.recv(), if draining => match message {
                Some(message) => if socket.send(message).await.is_err() { break },
                None => draining = false,
            },
            _ = &mut client => break,
            status = child.wait(), if exit.is_none() => exit = Some(status.map_or(255, exit_code)),
        }
    }
    client.abort();
    let Some(code) = exit else {
        if let Some(group) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        drop(child.wait().await);
        return;
    };
    let status = match code {
        0 => json!({ "metadata": {}, "status": "Success" }),
        code => failure(&format!("command terminated with exit code {code}"), Some(code)),
    };
    drop(socket.send(frame(ERROR, status)).await);
    drop(socket.send(goodbye()).await);
}

/// The end of a connection that kubectl does not take for a broken one.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))
}

fn failure(message: &str, code: Option<i32>) -> Value {
    let mut status = json!({ "metadata": {}, "status": "Failure", "message": message });
    match code {
        Some(code) => {
            status["reason"] = json!("NonZeroExitCode");
            status["details"] = json!({ "causes": [{ "reason": "ExitCode", "message": code.to_string() }] });
        }
        None => {
            status["reason"] = json!("InternalError");
            status["code"] = json!(500);
        }
    }
    status
}

fn frame(channel: u8, value: Value) -> Message {
    let mut data = vec![channel];
    data.extend(value.to_string().into_bytes());
    Message::Binary(data.into())
}

fn start(live: &Live, options: &ExecOptions, sender: mpsc::Sender<Message>) -> anyhow::Result<Running> {
    let init = live.endpoint.init.ok_or_else(|| anyhow::anyhow!("the container is not running"))?;
    let mut command = join(init, &live.endpoint.bundle, &options.command, options.tty);
    if options.tty {
        command.env("TERM", "xterm");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn()?;
        let reader = tokio::fs::File::from_std(File::from(master.try_clone()?));
        let writer = tokio::fs::File::from_std(File::from(master.try_clone()?));
        tokio::spawn(copy(reader, STDOUT, sender));
        return Ok(Running { child, input: Some(Box::new(writer)), terminal: Some(master) });
    }
    command.stdin(if options.stdin { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(out) = child.stdout.take() {
        tokio::spawn(copy(out, STDOUT, sender.clone()));
    }
    if let Some(err) = child.stderr.take() {
        tokio::spawn(copy(err, STDERR, sender));
    }
    let input = child.stdin.take().map(|stdin| Box::new(stdin) as Input);
    Ok(Running { child, input, terminal: None })
}

/// Sends one output stream on its channel until it ends.
async fn copy(mut output: impl AsyncRead + Unpin, channel: u8, sender: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let mut data = Vec::with_capacity(length + 1);
        data.push(channel);
        data.extend_from_slice(&buffer[..length]);
        if sender.send(Message::Binary(data.into())).await.is_err() {
            return;
        }
    }
}

/// Takes what the client sends, until it leaves.
async fn listen(mut incoming: SplitStream<WebSocket>, mut input: Option<Input>, terminal: Option<OwnedFd>) {
    while let Some(Ok(message)) = incoming.next().await {
        let Message::Binary(data) = message else { continue };
        match data.split_first() {
            Some((&STDIN, data)) => {
                if let Some(stdin) = &mut input
                    && stdin.write_all(data).await.and(stdin.flush().await).is_err()
                {
                    input = None;
                }
            }
            Some((&CLOSE, [STDIN])) => input = None,
            Some((&RESIZE, size)) => {
                if let (Ok(size), Some(terminal)) = (serde_json::from_slice::<Size>(size), &terminal) {
                    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = tcsetwinsize(terminal, size);
                }
            }
            _ => {}
        }
    }
}

/// A terminal's size in characters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_gives_command_and_streams() {
        let options = ExecOptions::parse("command=sh&command=-c&command=echo+%241&stdin=true&stdout=true&tty=false");
        let expected =
            ExecOptions { command: vec!["sh".into(), "-c".into(), "echo $1".into()], stdin: true, tty: false };
        assert_eq!(options, expected);
    }

    #[test]
    fn kubectl_finds_the_exit_code_in_the_causes() {
        let status = failure("x", Some(3));
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
