//! What somebody types at a shell of a machine that boots: as which user, and what comes of it.

use anyhow::{Result, ensure};

use super::{Installed, Said};
use crate::machine::sandbox::exit_code;

/// Sends its argument to the helper and prints the answer; perl is in every Debian.
const ASK_HELPER: &str = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => '/run/devbox-agent/helper.sock') or die \"$!\\n\"; \
                          $SIG{PIPE} = 'IGNORE'; print $s $ARGV[0]; $s->flush; $s->shutdown(1); print while <$s>;";

impl Installed<'_> {
    /// Runs a command as a user, with the groups that the user has.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn as_user(&self, user: &str, words: &[&str]) -> Result<Said> {
        let mut command = self.machine.command("runuser");
        command.args(["-u", user, "--"]).args(words);
        let output = self.machine.exec(command).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: exit_code(output.status), answer: text(output.stdout), talk: text(output.stderr) })
    }

    /// Runs a command as a user, which must be refused; `words` are in what it says.
    ///
    /// # Errors
    /// When it succeeds, or fails for another reason.
    pub async fn refuses(&self, user: &str, command: &[&str], words: &[&str]) -> Result<()> {
        let said = self.as_user(user, command).await?;
        let told = words.iter().any(|words| said.talk.contains(words) || said.answer.contains(words));
        ensure!(said.code != 0 && told, "{user} runs {}: not one of {words:?}, but {said:?}", command.join(" "));
        Ok(())
    }

    /// Sends bytes to the helper as a user, and returns its answer.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn ask_helper(&self, user: &str, request: &str) -> Result<Said> {
        self.as_user(user, &["perl", "-e", ASK_HELPER, request]).await
    }

    /// Calls a unix socket's HTTP server as a user; returns the status code, and what came with it.
    ///
    /// # Errors
    /// When curl cannot be run, or reaches nobody.
    pub async fn call(
        &self,
        user: &str,
        socket: &str,
        method: &str,
        url: &str,
        body: &str,
    ) -> Result<(String, String)> {
        let words = ["curl", "-sS", "--max-time", "10", "--unix-socket", socket, "-X", method, "-d", body];
        let said = self.as_user(user, &[&words[..], &["-w", "\n%{http_code}", url]].concat()).await?;
        ensure!(said.code == 0, "curl failed: {said:?}");
        let (body, code) = said.answer.rsplit_once('\n').unwrap_or(("", &said.answer));
        Ok((code.to_owned(), body.to_owned()))
    }
}
