//! What happens, told while it happens: a bar on a terminal, lines elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Lines of progress are this far apart where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(2);

/// The demo's voice.
pub(super) struct Moments {
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Moments {
    /// Starts the clock.
    pub(super) fn new() -> Self {
        let started = Instant::now();
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_draw_target(indicatif::ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { started, bar, last_line: Mutex::new(started) }
    }

    /// Tells one moment.
    pub(super) fn tell(&self, text: &str) {
        let line = format!("{:>6.1} s  {text}", self.started.elapsed().as_secs_f64());
        match &self.bar {
            // Before the first progress there is no bar worth drawing again.
            Some(bar) if bar.length() != Some(0) => bar.println(line),
            _ => println!("{line}"),
        }
    }

    /// Shows how far the work is.
    pub(super) fn progress(&self, done: usize, total: usize, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(text.to_owned());
            return;
        }
        let Ok(mut last) = self.last_line.lock() else { return };
        if last.elapsed() >= LINES_EVERY {
            *last = Instant::now();
            drop(last);
            self.tell(&format!("{done} of {total} ended: {text}"));
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
