//! A machine's resident thread: it lives in the machine's namespaces, keeps them alive and starts processes in
//! them. Namespaces belong to threads, so this costs no process, no `nsenter` and no name on disk.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid, sethostname};
use tokio::sync::oneshot;

use super::files::Root;
use super::namespace::MachineError;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. Dropping it ends it; its namespaces go when the last process in them has ended.
#[derive(Debug)]
pub struct Inhabitant {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: Pid,
    uts: String,
}

impl Inhabitant {
    /// Starts the thread in new network, mount and UTS namespaces and mounts the machine's files there.
    pub fn settle(name: &str, root: &Root) -> Result<Self, MachineError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let (host_name, root) = (name.to_owned(), root.clone());
        let thread = thread::Builder::new()
            .name(format!("machine {name}"))
            .spawn(move || {
                let settled = move_in(&host_name, &root);
                let stay = settled.is_ok();
                let heard = tell.send(settled).is_ok();
                if stay && heard {
                    queue.into_iter().for_each(|job| job());
                }
            })
            .map_err(MachineError::Thread)?;
        let (tid, uts) = told.recv().map_err(|_| MachineError::Gone)??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), tid, uts })
    }

    /// The thread's id, by which the kernel finds its network namespace.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// The UTS namespace's name: the mark by which the machine's processes are known. `exec` and containers within the machine
    /// make network and mount namespaces of their own, but keep this one.
    pub fn uts(&self) -> &str {
        &self.uts
    }

    /// Runs `work` on the thread and waits for it; for work of milliseconds.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, MachineError> {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move || drop(tell.send(work())));
        let jobs = self.jobs.as_ref().ok_or(MachineError::Gone)?;
        jobs.send(job).map_err(|_| MachineError::Gone)?;
        told.recv().map_err(|_| MachineError::Gone)
    }

    /// Runs a future on a thread of its own within the machine, as a process of the machine would.
    pub fn visit<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<Visit<T>, MachineError>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        // A thread starts in the namespaces of the one that starts it.
        self.run(move || Visit::start(|| Ok(()), work))?.map_err(MachineError::Thread)
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a machine's thread panicked");
        }
    }
}

/// A future that runs within a machine; dropping it cancels the future.
#[derive(Debug)]
pub struct Visit<T> {
    result: oneshot::Receiver<io::Result<T>>,
    _leave: oneshot::Sender<()>,
}

impl<T: Send + 'static> Visit<T> {
    /// Starts a thread that runs `enter` and then the future; it can go to other namespaces in between.
    pub(super) fn start<F>(
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = T>,
    {
        let (done, result) = oneshot::channel();
        let (leave, left) = oneshot::channel::<()>();
        thread::Builder::new().spawn(move || match enter() {
            Ok(()) => stay(work, left, done),
            // Nobody listens any more when the visit was dropped.
            Err(error) => drop(done.send(Err(error))),
        })?;
        Ok(Self { result, _leave: leave })
    }

    /// Waits for the future's result; an error when it panicked or got no runtime.
    pub async fn join(self) -> Result<T, MachineError> {
        self.result.await.map_err(|_| MachineError::Gone)?.map_err(MachineError::Thread)
    }
}

fn move_in(name: &str, root: &Root) -> Result<(Pid, String), MachineError> {
    let spaces = CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    unshare(spaces).map_err(|e| MachineError::Namespaces(e.into()))?;
    sethostname(name).map_err(|e| MachineError::Namespaces(e.into()))?;
    root.mount().map_err(|e| MachineError::Files(e.into()))?;
    let uts = std::fs::read_link("/proc/thread-self/ns/uts").map_err(MachineError::Namespaces)?;
    Ok((gettid(), uts.to_string_lossy().into_owned()))
}

fn stay<F, T>(work: impl FnOnce() -> F, left: oneshot::Receiver<()>, done: oneshot::Sender<io::Result<T>>)
where
    F: Future<Output = T>,
{
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                result = work() => Some(result),
                _ = left => None,
            }
        })
    });
    // Nobody listens any more when the visit was dropped.
    if let Some(result) = result.transpose() {
        drop(done.send(result));
    }
}
