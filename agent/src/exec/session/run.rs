//! One run, from the first token to the command's end and the node's.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::directory::Directory;
use super::edges::{LOGOUT_DEADLINE, edges, local_api};
use super::lines::{Lines, lost};
use super::link::{Link, Sender};
use super::progress::Progress;
use super::record::Record;
use super::resolver;
use super::signals::{Arrived, Signals};
use crate::core::drive::{Drive, Input};
use crate::core::fold::{Ending, Event};
use crate::core::phase::Phase;
use crate::core::reason::{Class, Code};
use crate::core::scribe::{Outlets, newborn};
use crate::core::world::{Configured, World};
use crate::exec::control::{Ended, News, Order, Part};
use crate::exec::failure::Failure;
use crate::exec::{Request, Services, streams};
use crate::socket::document::Document;
use crate::sys::packet::Packet;
use crate::tailscaled::LocalApiClient;

/// What timeout(1) ends with.
const TIMED_OUT: u8 = 124;

/// What a shell ends with after SIGKILL.
const KILLED: u8 = 128 + Signal::SIGKILL as u8;

/// How long a command may take to end on SIGTERM, as `docker stop` has it; then it is killed, so that its node can still be removed.
const GRACE: Duration = Duration::from_secs(10);

/// Two Ctrl-C within this time end the command, whatever it does with the first.
const TWICE: Duration = Duration::from_secs(1);

/// How long the end of a command that is not to begin any more is waited for: killed it is at once, and a disk can keep it.
const CALLED_OFF: Duration = Duration::from_secs(1);

/// What the core may take beyond its own deadline for a logout.
const MARGIN: Duration = Duration::from_millis(200);

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The node joins.
    Joining,
    /// The command was asked for, and perhaps waits for its peer.
    Starting,
    /// The command runs, as this process.
    Running(Pid),
}

/// What is to happen at a time.
#[derive(Clone, Copy, Debug)]
enum Deadline {
    /// The node should be there.
    Join,
    /// The command should have ended: `--timeout`.
    Command,
}

pub(super) struct Run<'a> {
    request: &'a Request,
    link: Link,
    orders: Sender,
    directory: Directory,
    signals: Signals,
    outputs: [Lines; 2],
    progress: Progress,
    record: Record,
    tailscaled: watch::Sender<Option<Ended>>,
    state: State,
    deadline: Option<(Instant, Deadline)>,
    /// When the command, asked to end, is killed.
    grace: Option<Instant>,
    /// When Ctrl-C was pressed last.
    interrupted: Option<Instant>,
    /// The exit code, whatever the command's own is.
    code: Option<u8>,
    document: Arc<Document>,
    /// Why the peer that the command waits for does not answer.
    unanswered: String,
}

type Documents = watch::Receiver<Arc<Document>>;

impl<'a> Run<'a> {
    pub fn new(
        request: &'a Request,
        link: Link,
        directory: Directory,
        signals: Signals,
        outputs: [Lines; 2],
        record: Record,
        deadline: Instant,
    ) -> Self {
        let document = Arc::new(newborn(request.began, ""));
        Self {
            request,
            orders: link.sender(),
            link,
            directory,
            signals,
            outputs,
            progress: Progress::new(request.quiet),
            record,
            tailscaled: watch::Sender::new(None),
            state: State::Joining,
            deadline: Some((deadline, Deadline::Join)),
            grace: None,
            interrupted: None,
            code: None,
            document,
            unanswered: String::new(),
        }
    }

    /// Lets the agent's own rules bring the node up, runs the command on it, and has the same rules remove the node.
    pub async fn until_done(mut self, services: Services) -> Result<u8, Failure> {
        let provider = services.metadata.provider();
        let now = services.clock.now();
        let local = local_api(&self.directory, self.request)?;
        let ended = self.tailscaled.subscribe();
        let edges = edges(&self.directory, local.clone(), services, self.orders.clone(), ended);
        let settings = self.request.settings.clone();
        let mut world = World::new(String::new(), Configured::of(&settings), edges.store.load());
        world.daemon.once = true;
        let (to_core, mut inputs) = mpsc::channel(8);
        let (status, documents) = watch::channel(Arc::new(newborn(now, provider)));
        let (report_interval, _) = watch::channel(Duration::ZERO);
        let drive = Drive::new(world, settings, edges, Outlets { status, report_interval });
        let mut core = pin!(drive.run(&mut inputs));
        let ended = tokio::select! {
            ended = self.watch(documents, &local) => ended,
            Err(panicked) = &mut core => return Err(Failure::Panicked(panicked.to_string())),
        };
        self.progress.end();
        let ended = self.called_off(ended).await;
        if ended.as_ref().is_err_and(Failure::cuts_off) {
            return ended;
        }
        // The core lives as long as this function: it takes the event.
        let _ = to_core.send(Input::Event(Event::Stop(Ending::ForGood))).await;
        if tokio::time::timeout(LOGOUT_DEADLINE + MARGIN, core).await.is_err() {
            tracing::warn!("the node was not logged out in time; the tailnet removes it as an ephemeral one");
        }
        ended
    }

    /// Has a command that was asked for not begin any more: of the run nothing but the logout is to come, which may take its time.
    async fn called_off(&mut self, result: Result<u8, Failure>) -> Result<u8, Failure> {
        let (Err(failure), State::Starting) = (&result, self.state) else { return result };
        let code = failure.code();
        // A sandbox that has ended has killed it all the same.
        let _ = tokio::time::timeout(CALLED_OFF, self.until_killed()).await;
        if self.state == State::Starting {
            return result;
        }
        eprintln!("devbox-agent exec: the command had just begun, and was killed");
        self.record.ended(Ended::Killed(Signal::SIGKILL as u8), code);
        if let Err(Failure::Interrupted { .. }) = result { Ok(code) } else { result }
    }

    /// Kills the command, and returns when nothing of it is left; it may turn out that it has begun.
    async fn until_killed(&mut self) -> Result<(), Failure> {
        self.order(Order::Kill)?;
        loop {
            match self.link.next().await? {
                (News::Idle | News::Lost { part: Part::Init, .. }, _) => return Ok(()),
                (News::Running, packet) => self.running(packet)?,
                _ => {}
            }
        }
    }

    async fn watch(&mut self, mut documents: Documents, local: &LocalApiClient) -> Result<u8, Failure> {
        loop {
            let joining = self.state == State::Joining;
            let [tailscaled, others] = &mut self.outputs;
            tokio::select! {
                // What the sandbox says first: it may be the cause of everything else.
                biased;
                news = self.link.next() => {
                    if let Some(code) = self.hear(news?).await? {
                        return Ok(code);
                    }
                }
                arrived = self.signals.next() => self.pass_on(arrived.map_err(Failure::own("read signals"))?)?,
                Ok(()) = documents.changed(), if joining => {
                    let document = documents.borrow_and_update().clone();
                    self.look(document, local).await?;
                }
                () = until(self.deadline.map(|(at, _)| at)) => self.late()?,
                () = until(self.grace) => {
                    self.grace = None;
                    self.kill(self.code.unwrap_or(KILLED))?;
                }
                () = tailscaled.follow() => {}
                () = others.follow() => {}
            }
        }
    }

    /// Starts the command when the node is online, and gives up when only a person can help.
    async fn look(&mut self, document: Arc<Document>, local: &LocalApiClient) -> Result<(), Failure> {
        self.document = document;
        match (self.document.phase, &self.document.reason) {
            (Phase::Online, _) => {
                if let Some(node) = &self.request.exit_node {
                    local.use_exit_node(node).await?;
                }
                let settled = resolver::settled(&self.directory.resolver()).await;
                settled.map_err(Failure::own("watch the resolver's configuration"))?;
                self.state = State::Starting;
                self.order(Order::Run)
            }
            (Phase::Blocked, Some(reason)) if reason.class == Class::Blocked => {
                Err(Failure::Blocked(Box::new(reason.clone())))
            }
            (_, Some(reason)) if reason.code == Code::KeyRefused && self.request.auth_key => {
                Err(Failure::KeyRefused(reason.detail.clone()))
            }
            (Phase::Unassigned, _) => Err(Failure::Services(
                "the platform names no tailnet for this machine; take the token from elsewhere, with --provider or --token".to_owned(),
            )),
            (_, Some(reason)) if !reason.detail.is_empty() => {
                self.progress.show(&reason.sentence);
                Ok(())
            }
            (phase, _) => {
                self.progress.show(&phase.as_str().replace('_', " "));
                Ok(())
            }
        }
    }

    /// Takes news in; gives the exit code when the command has ended.
    async fn hear(&mut self, (news, packet): (News, Packet)) -> Result<Option<u8>, Failure> {
        match news {
            // The link has told of a failure already.
            News::Built | News::Ready | News::Failed { .. } | News::Idle => {}
            News::Unanswered(why) => self.wait_on(why),
            News::Running => self.running(packet)?,
            News::Stopped if !self.request.shared_group => {
                // It is continued by whoever continues the command, which is told of that signal.
                raise(Signal::SIGSTOP).map_err(Failure::own("stop with the command"))?;
            }
            News::Stopped => {}
            News::Ended(ended) => return Ok(Some(self.ended(ended))),
            News::Lost { part: Part::Init, ended } if self.code.is_some() => return Ok(Some(self.ended(ended))),
            News::Lost { part, ended } => return Err(self.lost(part, ended).await),
        }
        Ok(None)
    }

    fn wait_on(&mut self, why: String) {
        if let Some(target) = &self.request.wait_for {
            self.progress.show(&format!("waiting for {target}: {why}"));
        }
        self.unanswered = why;
    }

    fn running(&mut self, packet: Packet) -> Result<(), Failure> {
        streams::give_back().map_err(Failure::own("give the standard streams back"))?;
        self.progress.end();
        self.record.started(&self.document);
        self.state = State::Running(Pid::from_raw(packet.sender.ok_or(Failure::Silent)?));
        self.deadline = self.request.timeout.map(|timeout| (Instant::now() + timeout, Deadline::Command));
        Ok(())
    }

    fn ended(&mut self, ended: Ended) -> u8 {
        let code = self.code.unwrap_or(ended.code());
        self.record.ended(ended, code);
        code
    }

    async fn lost(&mut self, part: Part, ended: Ended) -> Failure {
        if part == Part::Tailscaled {
            self.tailscaled.send_replace(Some(ended));
        }
        lost(&mut self.outputs, part, ended).await
    }

    /// A command in the caller's process group has got what the terminal sent already.
    fn pass_on(&mut self, arrived: Arrived) -> Result<(), Failure> {
        let Arrived { signal, from_terminal } = arrived;
        let State::Running(command) = self.state else {
            let reason = self.document.reason.clone().map(Box::new);
            return if arrived.ends() { Err(Failure::Interrupted { signal, reason }) } else { Ok(()) };
        };
        if !(self.request.shared_group && from_terminal) {
            self.signal(command, signal);
        }
        match signal {
            Signal::SIGINT if self.twice() => return self.kill(128 + Signal::SIGINT as u8),
            Signal::SIGTERM => self.give_grace(),
            _ => {}
        }
        Ok(())
    }

    /// Sends the command a signal: with all of its process group, where it has one of its own.
    fn signal(&self, command: Pid, signal: Signal) {
        let target = if self.request.shared_group { command } else { Pid::from_raw(-command.as_raw()) };
        // A command that has ended meanwhile needs none.
        let _ = kill(target, signal);
    }

    /// From the first time that the command was asked to end; asking again gives it no more time.
    fn give_grace(&mut self) {
        self.grace.get_or_insert_with(|| Instant::now() + GRACE);
    }

    fn twice(&mut self) -> bool {
        let before = self.interrupted.replace(Instant::now());
        before.is_some_and(|before| before.elapsed() < TWICE)
    }

    fn late(&mut self) -> Result<(), Failure> {
        match (self.deadline.take(), self.state) {
            (Some((_, Deadline::Command)), State::Running(command)) => {
                self.code = Some(TIMED_OUT);
                eprintln!("devbox-agent exec: the command's time is over (--timeout)");
                self.signal(command, Signal::SIGTERM);
                self.give_grace();
                Ok(())
            }
            _ => Err(self.not_joined()),
        }
    }

    fn not_joined(&self) -> Failure {
        match (&self.request.wait_for, self.state) {
            (Some(target), State::Starting) => Failure::Unanswered {
                peer: target.to_string(),
                limit: self.request.join_timeout,
                why: self.unanswered.clone(),
            },
            _ => {
                let reason = self.document.reason.clone().map(Box::new);
                let what = "the node was not on the tailnet".to_owned();
                Failure::TimedOut { what, limit: self.request.join_timeout, reason }
            }
        }
    }

    fn kill(&mut self, code: u8) -> Result<(), Failure> {
        self.code = Some(code);
        self.order(Order::Kill)
    }

    fn order(&self, order: Order) -> Result<(), Failure> {
        self.orders.send(order).map_err(Failure::own("tell the sandbox what to do"))
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
