//! The GitHub Action: what it brings to a runner that has nothing, and what it says when it cannot.

use anyhow::{Result, ensure};
use devbox_lab::devbox::{CLIENT, Said};
use devbox_lab::machine::story;
use devbox_lab::platform::github::{self, TokenService};
use devbox_lab::scene::Scene;

use crate::job::{Job, OWN, program};
use crate::workflow::Workflow;

/// Where an ordinary user has programs; pasta is among them, tailscaled and the agent are not.
const PATH: &str = "/usr/bin:/bin";

/// What every runner has.
const BASE: [&str; 15] = [
    "bash",
    "cat",
    "curl",
    "cut",
    "dpkg-deb",
    "gzip",
    "id",
    "mkdir",
    "mv",
    "realpath",
    "rm",
    "sed",
    "sha256sum",
    "tar",
    "uname",
];

/// Packs what stands for the releases of both programs, and returns the paths of the package and of the archive: they are the lab's own, as
/// nothing can be fetched.
async fn pack(job: &Job<'_>) -> Result<(String, String)> {
    let control = "Package: devbox-agent\nVersion: 1\nArchitecture: all\nMaintainer: lab\nDescription: the agent\n";
    job.write("tree/DEBIAN/control", control)?;
    let script = "cd $0; mkdir -p tree/usr/bin tailscale_1_any; \
        cp $1 tree/usr/bin/devbox-agent; dpkg-deb -Znone --root-owner-group --build tree agent.deb; \
        cp $2 tailscale_1_any/tailscaled; tar -cf - tailscale_1_any | gzip -1 >tailscale.tgz; \
        sha256sum tailscale.tgz >tailscale.tgz.sha256";
    let mut shell = job.command("bash");
    shell.args(["-ec", script, OWN]).args(["devbox-agent", "tailscaled"].map(|name| program(&job.machine, name)));
    let said = job.say(shell).await?;
    ensure!(said.code == 0, "{said:?}");
    Ok((format!("{OWN}/agent.deb"), format!("{OWN}/tailscale.tgz")))
}

/// Checks that a step failed with these words in an annotation, which the job's page shows.
fn annotated(said: &Said, words: &str) -> Result<()> {
    let errors: Vec<&str> =
        said.answer.lines().filter(|line| line.starts_with("::error title=devbox-agent::")).collect();
    ensure!(said.code == 1 && errors.len() == 1 && errors[0].contains(words), "not {words:?}, but {said:?}");
    Ok(())
}

#[test]
fn the_action_gives_later_steps_a_command_on_the_tailnet() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (service, job) = (scene.platform.github().await?, github::Job::new("acme/shop", "runner-7"));
        let runner = Job::elsewhere(&scene, "runner", &job.subject()).await?;
        let (package, archive) = pack(&runner).await?;
        let workflow = Workflow::begin(runner, service.begin(&job)?, PATH)?;
        let archive = format!("file://{archive}");
        let sum = workflow.run(&format!("sha256sum {package} | cut -d ' ' -f 1")).await?.answer;
        let with = [("package", &package[..]), ("package-sha256", sum.trim()), ("tailscale", &archive)];
        let said = workflow.uses(&with).await?;
        ensure!(said.code == 0 && said.answer.is_empty(), "{said:?}");
        let asked = service.server.log.all().len();
        assert_eq!(asked, 0, "installing asks for no token");

        let step = format!("devbox-agent exec --client-id {CLIENT} --tag tag:ci -- echo on the tailnet");
        let said = workflow.run(&step).await?;
        ensure!(said.code == 0 && said.answer == "on the tailnet\n", "{said:?}");
        ensure!(said.talk.contains("github-actions"), "it does not say where the token comes from: {said:?}");
        assert_eq!(service.server.log.count(&TokenService::route(&job)), 1);
        workflow.job.close().await
    });
}

#[test]
fn an_action_that_cannot_install_says_what_and_what_to_do() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let runner = Job::elsewhere(&scene, "runner", "nobody").await?;
        let (package, archive) = pack(&runner).await?;
        let workflow = Workflow::begin(runner, Vec::new(), PATH)?;
        annotated(&workflow.uses(&[]).await?, "give the input package")?;
        annotated(&workflow.uses(&[("package", "no-such.deb")]).await?, "failed to fetch no-such.deb")?;
        let wrong = [("package", &package[..]), ("package-sha256", "0123")];
        annotated(&workflow.uses(&wrong).await?, "its SHA-256 is not 0123")?;
        let with = [("package", &package[..]), ("tailscale", &archive)];
        workflow.job.write("tailscale.tgz.sha256", "4567  tailscale.tgz\n")?;
        annotated(&workflow.uses(&with).await?, "its SHA-256 is not 4567")?;
        ensure!(workflow.read("path")?.is_empty(), "later steps would find half of it");
        workflow.job.close().await
    });
}

#[test]
fn what_needs_root_is_asked_of_sudo_and_its_lack_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let runner = Job::elsewhere(&scene, "runner", "nobody").await?;
        let (package, archive) = pack(&runner).await?;
        let folder = format!("{OWN}/bin");
        let mut link = runner.command("ln");
        link.args(["-s", "-t", &folder]).args(BASE.map(|name| program(&runner.machine, name)));
        runner.program("apt-get", "exit 9")?;
        let said = runner.say(link).await?;
        ensure!(said.code == 0, "{said:?}");
        let workflow = Workflow::begin(runner, Vec::new(), &folder)?;
        let with = [("package", &package[..]), ("tailscale", &archive)];
        annotated(&workflow.uses(&with).await?, "failed to install passt: have it in the runner's image")?;

        let pasta = program(&workflow.job.machine, "pasta");
        let sudo = format!(
            "printf '%s\\n' \"$*\" >>{OWN}/asked; case $* in *install*) exec /bin/ln -s {pasta} {folder} ;; esac"
        );
        workflow.job.program("sudo", &sudo)?;
        let said = workflow.uses(&with).await?;
        ensure!(said.code == 0, "{said:?}");
        let asked = "-n apt-get -qq update\n-n apt-get -qq install -y --no-install-recommends passt\n";
        assert_eq!(workflow.read("asked")?, asked);
        workflow.job.close().await
    });
}
