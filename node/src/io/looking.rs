//! `lan show --watch`, `lan trace` and `lan capture`: verbs that are more than a question and an answer.

use super::verbs::{Done, End, Session};
use crate::{
    api::{CaptureRequest, Captured, LanView, TraceRequest, TraceView, routes::Op},
    cli::{CaptureArgs, ShowLanArgs},
    defaults,
    io::{client::EMPTY, terminal},
    pcapng,
    render::{self, Before},
};
use bytes::BytesMut;
use std::{
    fs::File,
    io::{ErrorKind, IsTerminal, Write},
    time::Instant,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::{Fault, FaultKind};

impl Session {
    /// A LAN again and again, with rates, until Ctrl-C.
    pub(super) async fn watch_lan(&self, args: &ShowLanArgs) -> Done {
        let Some(name) = args.name.as_deref() else {
            return Err(Fault::new(FaultKind::Usage, "which LAN is to be watched?")
                .next("lanline lan show NAME --watch")
                .into());
        };
        let screen = std::io::stdout().is_terminal() && !self.json;
        let mut before: Option<(LanView, Instant)> = None;
        let mut interrupts = interrupts()?;
        loop {
            let lan: LanView = self.client.call(Op::LanShow, &[name], EMPTY).await?;
            let at = Instant::now();
            if self.json {
                self.show(&lan)?;
            } else {
                // The window may have changed its size.
                let view = terminal::view(&std::io::stdout());
                let earlier = before.as_ref().map(|(view, then)| Before {
                    view,
                    ago: at.duration_since(*then),
                });
                let height = if screen { terminal::height() } else { usize::MAX };
                let page = render::watched(&lan, earlier, &view, height);
                let clear = if screen { "\x1b[H\x1b[J" } else { "" };
                let gap = if screen { "" } else { "\n" };
                terminal::answer(format!("{clear}{page}{gap}").as_bytes())?;
            }
            before = Some((lan, at));
            tokio::select! {
                () = tokio::time::sleep(defaults::WATCH_EVERY) => {}
                _ = interrupts.recv() => return Ok(()),
            }
        }
    }

    /// Where something is; exit 4 if nobody knows, 6 if frames do not get there.
    pub(super) async fn trace(&self, request: &TraceRequest) -> Done {
        let trace: TraceView = self.client.call(Op::LanTrace, &[], Some(request)).await?;
        if trace.reachable {
            return self.show(&trace);
        }
        let kind = match trace.here.entry {
            None => FaultKind::NoMatch,
            Some(_) => FaultKind::Unreachable,
        };
        self.show(&trace)?;
        Err(End::Shown(kind))
    }

    /// Writes a capture until it ends, its time or Ctrl-C.
    pub(super) async fn capture(&self, args: &CaptureArgs) -> Done {
        let to_stdout = args.to_stdout();
        if to_stdout && std::io::stdout().is_terminal() {
            return Err(Fault::new(FaultKind::Usage, "a capture is not text for a terminal")
                .next("write it to a file: -w FILE.pcapng; or pipe it: ... -w - | wireshark -k -i -")
                .into());
        }
        if to_stdout && self.json {
            return Err(Fault::new(FaultKind::Usage, "standard output holds the capture itself")
                .next("with --json write the capture to a file: -w FILE.pcapng")
                .into());
        }
        let request = args.request();
        let mut answer = self.begin_capture(&args.name, &request).await?;
        let mut out: Box<dyn Write> = match args.file() {
            None => Box::new(std::io::stdout()),
            Some(path) => Box::new(File::create(path).map_err(|e| {
                Fault::new(FaultKind::Failed, format!("{}: {e}", path.display())).next("choose another file: -w FILE")
            })?),
        };
        terminal::hint("capturing; Ctrl-C ends it\n");
        let mut wrote = Captured::default();
        let mut buf = BytesMut::new();
        let mut ending: Option<tokio::time::Instant> = None;
        let mut interrupts = interrupts()?;
        loop {
            let late = async {
                match ending {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let part = tokio::select! {
                part = answer.next() => part?,
                _ = interrupts.recv() => {
                    if ending.is_some() {
                        break;
                    }
                    // What was lost is said each second: the file should end with it.
                    ending = Some(tokio::time::Instant::now() + defaults::CAPTURE_STATISTICS * 2);
                    continue;
                }
                () = late => None,
            };
            let Some(part) = part else { break };
            buf.extend_from_slice(&part);
            match write_blocks(&mut buf, &mut *out, &mut wrote)? {
                Wrote::NobodyReads => break,
                Wrote::Statistics if ending.is_some() => break,
                Wrote::Statistics | Wrote::Frames => {}
            }
        }
        if to_stdout {
            terminal::hint(&render::Human::human(&wrote, &self.err));
            return Ok(());
        }
        self.show(&wrote)
    }

    async fn begin_capture(&self, lan: &str, request: &CaptureRequest) -> Result<super::client::Parts, End> {
        Ok(self.client.parts(Op::LanCapture, &[lan], Some(request)).await?)
    }
}

/// Ctrl-C, none of them missed while something else is done.
fn interrupts() -> Result<Signal, Fault> {
    signal(SignalKind::interrupt())
        .map_err(|e| Fault::new(FaultKind::Failed, format!("Ctrl-C cannot be waited for: {e}")))
}

/// What came of writing.
enum Wrote {
    /// Frames, or less.
    Frames,
    /// Statistics were among it.
    Statistics,
    /// The reader has gone.
    NobodyReads,
}

/// Writes the whole blocks of `buf`, so that the file never ends within one.
fn write_blocks(buf: &mut BytesMut, out: &mut dyn Write, wrote: &mut Captured) -> Result<Wrote, Fault> {
    let odd = |e: &dyn std::fmt::Display| Fault::new(FaultKind::Failed, format!("the capture cannot be written: {e}"));
    let mut end = Wrote::Frames;
    while let Some(n) = pcapng::whole_block(buf).map_err(|e| odd(&e))? {
        let block = buf.split_to(n);
        match out.write_all(&block) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(Wrote::NobodyReads),
            Err(e) => return Err(odd(&e)),
        }
        wrote.bytes += n as u64;
        wrote.frames += u64::from(pcapng::is_packet(&block));
        if pcapng::is_statistics(&block) {
            end = Wrote::Statistics;
        }
    }
    match out.flush() {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Wrote::NobodyReads),
        Err(e) => Err(odd(&e)),
        Ok(()) => Ok(end),
    }
}
