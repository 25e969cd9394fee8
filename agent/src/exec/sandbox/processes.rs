//! What runs in the sandbox, and what becomes of it when one of them ends.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::MsgFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};

use super::identity::Caller;
use super::mounts::{self, NETWORK};
use super::network::Network;
use super::{DIRECTORY, NOTIFY, Plan, SOCKET, broker, init, relay};
use crate::clock::SystemClock;
use crate::exec::control::{Ended, News, Order, Part, hear, tell};
use crate::exec::streams;
use crate::sys::fork::{self, ForkError};
use crate::sys::{descriptor, packet};

/// The sandbox's children.
#[derive(Debug)]
pub(super) struct Processes {
    plan: Plan,
    caller: Caller,
    control: OwnedFd,
    running: Vec<(Part, Pid)>,
    broker: Option<OwnedFd>,
    network: Option<Network>,
    start: Wanted,
    run: Wanted,
    leads_out: bool,
    ready: bool,
}

/// What was asked for, and may have to wait for something else.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    No,
    Yes,
    Done,
}

/// A pasta that waits for the network that it is to serve.
#[derive(Debug)]
pub(super) struct Gate(PipeWriter);

impl Gate {
    /// Lets it go on.
    pub fn go(mut self) -> io::Result<()> {
        self.0.write_all(b".")
    }
}

impl Processes {
    pub fn new(plan: Plan, caller: Caller, control: OwnedFd) -> Self {
        Self {
            plan,
            caller,
            control,
            running: Vec::new(),
            broker: None,
            network: None,
            start: Wanted::No,
            run: Wanted::No,
            leads_out: false,
            ready: false,
        }
    }

    /// pasta lives in the host's network, so it is made before the sandbox leaves that; what it serves is there only afterwards.
    pub fn prepare_pasta(&mut self) -> Result<Option<Gate>, ForkError> {
        let Some(pasta) = &self.plan.programs.pasta else { return Ok(None) };
        let (wait, gate) = io::pipe()?;
        let mut command = Command::new(pasta);
        // It looks at its own name to know whether it is passt or pasta.
        command.arg0("pasta").env_clear().args([
            "--config-net",
            "--foreground",
            "--quiet",
            "--netns-only",
            "--netns",
            NETWORK,
        ]);
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]);
        let output = self.plan.output.others.try_clone()?;
        self.fork(Part::Pasta, move || started(serve_network(command, wait, output)))?;
        Ok(Some(Gate(gate)))
    }

    /// Starts the broker, while this process is still in the host's network. Where the kernel cannot do it there is none, and tailscaled's
    /// packets go through pasta.
    pub fn start_broker(&mut self) -> Result<(), ForkError> {
        if !broker::possible() {
            return Ok(());
        }
        let (ours, its) = packet::pair()?;
        // Before anybody could send: what is sent earlier comes without its sender.
        packet::with_senders(&its)?;
        let dispensable = self.has_pasta();
        self.fork(Part::Broker, move || served(|| broker::serve(its, dispensable)))?;
        self.broker = Some(ours);
        Ok(())
    }

    /// Starts the relay of names' questions; like the broker it lives in the host's network.
    pub fn start_relay(&mut self) -> Result<Option<OwnedFd>, ForkError> {
        let servers = self.plan.host.name_servers();
        if servers.is_empty() {
            return Ok(None);
        }
        let (ours, its) = packet::pair()?;
        self.fork(Part::Relay, move || served(|| relay::serve(&its, servers, &SystemClock)))?;
        Ok(Some(ours))
    }

    /// Sets the rules; the command waits until they are in force.
    pub fn start_firewall(&mut self) -> Result<(), ForkError> {
        let file = Path::new(DIRECTORY).join("rules");
        std::fs::write(&file, self.plan.rules.text())?;
        let mut command = Command::new(&self.plan.programs.nft);
        command.env_clear().arg("-f").arg(file);
        let output = self.plan.output.others.try_clone()?;
        self.fork(Part::Firewall, move || started(streams::null().and_then(|null| spawned(command, null, output))))
    }

    fn has_pasta(&self) -> bool {
        self.plan.programs.pasta.is_some()
    }

    /// Makes a child that is a part of the sandbox.
    fn fork(&mut self, part: Part, then: impl FnOnce() -> u8) -> Result<(), ForkError> {
        self.running.push((part, fork::run(then)?));
        Ok(())
    }

    pub fn use_network(&mut self, network: Network) {
        self.network = Some(network);
    }

    /// Does what the session asks, until it has ended; the kernel ends everything with this process.
    pub fn watch(mut self) -> io::Result<()> {
        let mask = SigSet::from(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // One may have ended before its signal had somewhere to go.
        self.reap()?;
        loop {
            self.wait(&children)?;
            while children.read_signal()?.is_some() {}
            match hear(&self.control, MsgFlags::MSG_DONTWAIT) {
                Ok(None) => return Ok(()),
                Ok(Some((order, _))) => self.obey(order)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.reap()?;
            self.proceed()?;
        }
    }

    fn wait(&self, children: &SignalFd) -> io::Result<()> {
        let routes = self.network.as_ref().filter(|_| !self.leads_out);
        let mut descriptors = vec![
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        descriptors.extend(routes.map(|routes| PollFd::new(routes.as_fd(), PollFlags::POLLIN)));
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Start if self.start == Wanted::No => self.start = Wanted::Yes,
            Order::Run if self.run == Wanted::No => self.run = Wanted::Yes,
            Order::Start | Order::Run => {}
            Order::Kill if self.kill_command() => {}
            Order::Kill => tell(&self.control, &News::Idle, None)?,
        }
        Ok(())
    }

    /// Kills the command, which is heard of when it has ended; false when there is none. None is begun any more.
    fn kill_command(&mut self) -> bool {
        self.run = Wanted::Done;
        let Some((_, init)) = self.running.iter().find(|(part, _)| *part == Part::Init) else { return false };
        // It may have ended already, and is heard of all the same.
        let _ = kill(*init, Signal::SIGKILL);
        true
    }

    /// Starts what was asked for and has what it needs. A tailscaled that was started before the network was there would now and then miss it
    /// for a second, and rarely for half a minute.
    fn proceed(&mut self) -> io::Result<()> {
        if let (false, Some(network)) = (self.leads_out, &self.network) {
            self.leads_out = network.leads_out()?;
        }
        if self.start == Wanted::Yes && self.leads_out {
            self.start = Wanted::Done;
            self.start_tailscaled()?;
        }
        let safe = !self.running.iter().any(|(part, _)| *part == Part::Firewall);
        if safe && self.leads_out && !self.ready {
            self.ready = true;
            tell(&self.control, &News::Ready, None)?;
        }
        if self.run == Wanted::Yes && safe {
            self.run = Wanted::Done;
            self.start_command()?;
        }
        Ok(())
    }

    fn start_tailscaled(&mut self) -> Result<(), ForkError> {
        let own = |name: &str| Path::new(DIRECTORY).join(name);
        let mut command = Command::new(&self.plan.programs.tailscaled);
        command
            .args([format!("--socket={DIRECTORY}/{SOCKET}"), format!("--statedir={DIRECTORY}/state")])
            .args(["--state=mem:", "--port=0"])
            .arg(format!("--tun={}", self.plan.rules.tun))
            .env_clear()
            .envs(self.plan.daemon_environment.iter().cloned())
            // With one it would restart the host's systemd-resolved, and try iptables.
            .env("PATH", "/nonexistent")
            .env("HOME", DIRECTORY)
            .env("TMPDIR", own("tmp"))
            .env("TS_LOGS_DIR", own("state"))
            .env("NOTIFY_SOCKET", own(NOTIFY));
        let output = self.plan.output.tailscaled.try_clone()?;
        let (broker, dispensable) = (self.broker.take(), self.has_pasta());
        self.fork(Part::Tailscaled, move || {
            let brokered = broker.as_ref().map_or(Ok(()), |broker| broker::use_broker(broker, dispensable, &output));
            started(brokered.and_then(|()| spawned(command, streams::null()?, output)))
        })
    }

    fn start_command(&mut self) -> Result<(), ForkError> {
        let pid = match fork::into(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)? {
            Some(pid) => pid,
            None => fork::end(init::live(&self.plan, self.caller, &self.control)),
        };
        streams::give_back()?;
        self.running.push((Part::Init, pid));
        Ok(())
    }

    /// Rules that are set are done, and so is a broker that was not needed: tailscaled then reaches everything through pasta.
    fn may_end(&self, part: Part, ended: Ended) -> bool {
        let dispensable = part == Part::Firewall || (part == Part::Broker && self.has_pasta());
        dispensable && ended == Ended::Exited(0)
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
                Ok(status) => status,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let Some((pid, ended)) = Ended::of(status) else { continue };
            let Some(index) = self.running.iter().position(|(_, running)| *running == pid) else { continue };
            let (part, _) = self.running.swap_remove(index);
            if !self.may_end(part, ended) {
                self.kill_command();
                tell(&self.control, &News::Lost { part, ended }, None)?;
            }
        }
    }
}

fn serve_network(command: Command, mut wait: PipeReader, output: OwnedFd) -> io::Result<()> {
    wait.read_exact(&mut [0])?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mounts::show_host_resolver()?;
    spawned(command, streams::null()?, output)
}

/// Becomes the program, in a process group that the terminal's signals do not reach, with no descriptor of the caller's and no signal blocked.
fn spawned(mut command: Command, input: OwnedFd, output: OwnedFd) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    descriptor::close_all_on_exec()?;
    command.stdin(Stdio::from(input)).stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
    Err(command.process_group(0).exec())
}

/// Serves, with the standard streams given back and in a process group that Ctrl-Z does not stop; gives what the child ends with: 0, or the
/// errno of why it could not go on.
fn served(serve: impl FnOnce() -> io::Result<()>) -> u8 {
    let own_group = || setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(io::Error::from);
    match streams::give_back().and_then(|()| own_group()).and_then(|()| serve()) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().map_or(1, |errno| (errno as u8).max(1)),
    }
}

/// What a child that could not become its program ends with: its words are in the output that is kept.
fn started(result: io::Result<()>) -> u8 {
    if let Err(error) = result {
        eprintln!("{error}");
    }
    127
}
