//! The output of the commands: the terminal, or the client of a supervisor.

use std::io::{IsTerminal as _, Write as _};

use tokio::sync::mpsc::UnboundedSender;

/// An output for text. A terminal can overwrite lines.
#[derive(Debug)]
pub(crate) struct Say {
    to: To,
    is_terminal: bool,
}

#[derive(Debug)]
enum To {
    Stdout,
    Client(UnboundedSender<String>),
}

impl Say {
    pub(crate) fn to_stdout() -> Self {
        Self { to: To::Stdout, is_terminal: std::io::stdout().is_terminal() }
    }

    pub(crate) fn to_client(client: UnboundedSender<String>, is_terminal: bool) -> Self {
        Self { to: To::Client(client), is_terminal }
    }

    /// Whether lines can be overwritten.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn line(&mut self, text: &str) {
        self.raw(&format!("{text}\n"));
    }

    pub(crate) fn raw(&mut self, text: &str) {
        match &self.to {
            To::Stdout => {
                let mut stdout = std::io::stdout().lock();
                // The output is closed, so the text is dropped.
                _ = stdout.write_all(text.as_bytes());
                _ = stdout.flush();
            }
            To::Client(client) => _ = client.send(text.to_owned()),
        }
    }
}
