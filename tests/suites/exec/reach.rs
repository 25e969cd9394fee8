//! What a command reaches of the tailnet: everything that an ordinary machine of it would.

use anyhow::{Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;

use crate::job::{Job, OWN, program};
use crate::peer::{ECHO, GIT, NUMBERED, NUMBERS, PAGE, Peer};

#[test]
fn tcp_udp_icmp_and_names_reach_a_peer() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        let _echo = peer.echoes()?;
        let (v4, v6) = (peer.v4, peer.v6);
        let opened = format!(
            "set -e; for url in peer peer.lab.ts.test {v4} '[{v6}]'; do curl -fsS --max-time 20 \"http://$url/\"; echo; done; \
             curl -4fsS --max-time 20 http://peer/; echo; curl -6fsS --max-time 20 http://peer/; echo"
        );
        let pages = job.script(&["--wait-for", "peer:80"], &opened, 0).await?;
        let ours = |page: &str| page.starts_with("hello 100.64.") || page.starts_with("hello fd7a:115c:a1e0:");
        let all = pages.lines().all(|page| ours(page) && page.ends_with(PAGE));
        ensure!(all && pages.lines().count() == 6, "the peer sees {pages}");
        let families = [4, 5].map(|line| pages.lines().nth(line).is_some_and(|page| page.contains("hello 100.64.")));
        assert_eq!(families, [true, false], "by name, by either family");

        let script = format!(
            "exec 3<>/dev/udp/peer/{ECHO}; echo over-udp >&3; timeout 20 head -1 <&3; \
             ping -c 1 -W 20 peer >/dev/null && ping -4 -c 1 -W 20 {v4} >/dev/null && ping -6 -c 1 -W 20 {v6} >/dev/null && echo pinged; \
             getent ahostsv4 peer | head -1; getent ahostsv6 peer | head -1; \
             dig +short peer.lab.ts.test A; dig +short +tcp peer.lab.ts.test AAAA; dig +short -x {v4}"
        );
        let answer = job.script(&["--wait-for", "peer"], &script, 0).await?;
        let lines: Vec<&str> = answer.lines().collect();
        ensure!(lines[..2] == ["over-udp", "pinged"], "{answer}");
        let (v4, v6) = (v4.to_string(), v6.to_string());
        ensure!(lines[2].starts_with(&v4) && lines[3].starts_with(&v6), "the resolver says {answer}");
        assert_eq!(lines[4..], [&v4, &v6, "peer.lab.ts.test."]);
        job.close().await
    });
}

#[test]
fn a_gibibyte_comes_from_a_peer_unharmed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        let _numbers = peer.serves_numbers()?;
        let compared = format!("set -o pipefail; curl -fsS http://peer:{NUMBERS}/ | cmp - <({NUMBERED}) && echo same");
        assert_eq!(job.script(&["--wait-for", "peer:80"], &compared, 0).await?, "same\n");
        job.close().await
    });
}

/// A repository with one commit, and an SSH server for it, by a user of the peer: keys, and an sshd without root.
const REPOSITORY: &str = "export GIT_AUTHOR_NAME=Ada GIT_AUTHOR_EMAIL=ada@example GIT_COMMITTER_NAME=Ada GIT_COMMITTER_EMAIL=ada@example; \
    git init -q -b main work; cd work; seq 100000 >numbers; git add numbers; git commit -qm 'The first'; cd ..; \
    git clone -q --bare work app.git; rm -r work; \
    ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f user; cp user.pub authorized; cat user";

#[test]
fn git_clones_from_a_peer_by_http_and_by_ssh() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        peer.machine.root().write("/etc/passwd", std::fs::read(job.machine.root().path("/etc/passwd"))?)?;
        let key = job.write("key", &peer.script(REPOSITORY).await?)?;
        std::fs::set_permissions(job.machine.root().path(&key), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let host = std::fs::read_to_string(peer.machine.root().path(format!("{OWN}/host.pub")))?;
        let known = job.write("known", &format!("[peer]:2222 {host}"))?;
        let _git = peer.serves_git()?;
        let mut sshd = peer.command("sshd");
        sshd.args(["-D", "-e", "-f", "/dev/null", "-p", "2222", "-h", &format!("{OWN}/host"), "-o", "PidFile=none"]);
        sshd.args(["-o", "UsePAM=no", "-o", "StrictModes=no", "-o", &format!("AuthorizedKeysFile={OWN}/authorized")]);
        let _sshd = peer.serves(sshd, "Server listening").await?;

        let script = format!(
            "set -e; cd {OWN}; export GIT_SSH_COMMAND='ssh -i {key} -o UserKnownHostsFile={known} -o BatchMode=yes -o LogLevel=ERROR'; \
             git clone -q http://peer:{GIT}/app.git by-http; git clone -q ssh://ci@peer:2222{OWN}/app.git by-ssh; \
             for how in http ssh; do git -C by-$how log --format=%s; cmp by-$how/numbers <(seq 100000); done; rm -rf by-http by-ssh"
        );
        let options = ["--wait-for", "peer:2222", "--tailnet-only"];
        assert_eq!(job.script(&options, &script, 0).await?, "The first\nThe first\n");
        job.close().await
    });
}

const MIGRATION: &str = "create table deploys (id serial primary key, what text not null);\n\
    insert into deploys (what) select 'deploy ' || n from generate_series(1, 1000) n;\n";

#[test]
fn a_migration_runs_against_a_database_that_only_the_tailnet_has() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        peer.machine.root().write("/etc/passwd", std::fs::read(job.machine.root().path("/etc/passwd"))?)?;
        let made = format!(
            "{} -D {OWN}/db -U ci -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null; echo 'host all all 100.64.0.0/10 trust' >db/pg_hba.conf",
            program(&peer.machine, "initdb")
        );
        peer.script(&made).await?;
        let mut postgres = peer.command("postgres");
        postgres.args(["-D", &format!("{OWN}/db"), "-c", &format!("listen_addresses={}", peer.v4), "-c", "fsync=off"]);
        // The files of its other ways to share memory would outlive a killed server.
        postgres.args(["-c", "unix_socket_directories=", "-c", "dynamic_shared_memory_type=mmap"]);
        let _postgres = peer.serves(postgres, "ready to accept connections").await?;

        let migration = job.write("migration.sql", MIGRATION)?;
        let psql = ["psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-U", "ci", "-d", "postgres"];
        let said = job
            .run(&["--wait-for", "peer:5432"], &[&psql[..], &["-h", "peer", "-1", "-f", &migration]].concat())
            .await?;
        ensure!(said.code == 0 && said.talk.is_empty(), "{said:?}");
        let mut count = peer.command("psql");
        count.args(&psql[1..]).args(["-h", &peer.v4.to_string(), "-Atc", "select count(*), max(what) from deploys"]);
        let counted = peer.machine.exec(count).await?;
        assert_eq!(String::from_utf8_lossy(&counted.stdout), "1000|deploy 999\n", "{counted:?}");

        let mut around = job.command("psql");
        around.args(&psql[1..]).args(["-h", &peer.machine.address().to_string(), "-c", "select 1"]);
        let refused = job.say(around).await?;
        ensure!(refused.code == 2 && refused.talk.contains("refused"), "the database is not private: {refused:?}");
        job.close().await
    });
}
