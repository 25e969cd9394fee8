//! Which provider is meant when nobody has said: by what the process's environment tells, and never by asking the network, where an endpoint that
//! is not there costs seconds.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use super::{github, namespace};
use crate::config::settings::ProviderKind;

/// What the machine's firmware says it is (sysfs-devices of the kernel's ABI documentation).
const PRODUCT: &str = "/sys/class/dmi/id/product_name";
const CHASSIS: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// Google's product name.
const GCE_PRODUCT: &str = "Google Compute Engine";
/// The asset tag of every VM of Azure, by which cloud-init knows them too.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// What is looked at; the caller says how.
pub struct Surroundings<'a> {
    /// A variable's value.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether a file is there.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// A short file's text, if it is there and can be read.
    pub text: &'a dyn Fn(&Path) -> Option<String>,
}

/// A provider, and what speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The provider.
    pub provider: ProviderKind,
    /// The sign, as a clause: "X is set".
    pub because: String,
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.provider.as_str(), self.because)
    }
}

/// Why no provider was chosen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DetectError {
    /// Several speak for themselves equally well.
    #[error("failed to choose where the token comes from: {} may be meant; say which", listed(.0))]
    Ambiguous(Vec<Detected>),
    /// Nothing speaks for any.
    #[error(
        "failed to choose where the token comes from: this is no job of GitHub Actions, no machine of Namespace's, Google's or Azure's; say which \
         provider is meant"
    )]
    Nothing,
}

fn listed(candidates: &[Detected]) -> String {
    candidates.iter().map(Detected::to_string).collect::<Vec<_>>().join(" and ")
}

/// Names the one provider that is meant.
///
/// What is about this very job counts before what is about the machine: GitHub's own runners are VMs of Azure, whose identity is not the job's.
///
/// # Errors
/// When several are meant equally, or none.
pub fn detect(surroundings: &Surroundings<'_>) -> Result<Detected, DetectError> {
    let levels = [
        vec![github_token(surroundings), namespace_credential(surroundings)],
        // Without a token, GitHub's provider says what the job lacks.
        vec![github_job(surroundings)],
        vec![
            firmware(surroundings, PRODUCT, GCE_PRODUCT, ProviderKind::Gce),
            firmware(surroundings, CHASSIS, AZURE_CHASSIS, ProviderKind::Azure),
        ],
    ];
    for level in levels {
        let mut found: Vec<Detected> = level.into_iter().flatten().collect();
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            _ => return Err(DetectError::Ambiguous(found)),
        }
    }
    Err(DetectError::Nothing)
}

impl Surroundings<'_> {
    fn is_set(&self, name: &str) -> bool {
        (self.variable)(name).is_some_and(|value| !value.is_empty())
    }
}

fn github_token(surroundings: &Surroundings<'_>) -> Option<Detected> {
    let found = surroundings.is_set(github::URL) && surroundings.is_set(github::TOKEN);
    let because = format!("{} is set", github::URL);
    found.then_some(Detected { provider: ProviderKind::GithubActions, because })
}

fn github_job(surroundings: &Surroundings<'_>) -> Option<Detected> {
    let found = (surroundings.variable)("GITHUB_ACTIONS").is_some_and(|value| value == "true");
    found.then(|| Detected { provider: ProviderKind::GithubActions, because: "GITHUB_ACTIONS is true".to_owned() })
}

fn namespace_credential(surroundings: &Surroundings<'_>) -> Option<Detected> {
    let variables = [namespace::SPEC, namespace::SPEC_FILE, namespace::TOKEN_FILE];
    let variable = variables.into_iter().find(|name| surroundings.is_set(name));
    let because = variable.map(|name| format!("{name} is set")).or_else(|| {
        let namespace::Files { spec, token } = namespace::Files::default();
        let file = [spec, token].into_iter().find(|path| (surroundings.exists)(path));
        file.map(|path| format!("{} is there", path.display()))
    });
    because.map(|because| Detected { provider: ProviderKind::Namespace, because })
}

fn firmware(surroundings: &Surroundings<'_>, path: &str, value: &str, provider: ProviderKind) -> Option<Detected> {
    let found = (surroundings.text)(Path::new(path)).is_some_and(|text| text.trim() == value);
    found.then(|| Detected { provider, because: format!("{path} says {value:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GITHUB: [(&str, &str); 3] =
        [("GITHUB_ACTIONS", "true"), (github::URL, "https://pipelines.example/"), (github::TOKEN, "t")];
    const AZURE: (&str, &str) = (CHASSIS, AZURE_CHASSIS);
    const GOOGLE: (&str, &str) = (PRODUCT, GCE_PRODUCT);
    const SPEC: (&str, &str) = ("/var/run/nsc/token.spec", "");

    /// What is made of these variables and files.
    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Detected, DetectError> {
        let file = |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| *text);
        detect(&Surroundings {
            variable: &|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
            exists: &|path| file(path).is_some(),
            text: &|path| file(path).map(|text| format!("{text}\n")),
        })
    }

    #[test]
    fn each_provider_is_known_by_a_sign_of_its_own() {
        for (variables, files, provider, sign) in [
            (&GITHUB[..], &[][..], ProviderKind::GithubActions, github::URL),
            (&GITHUB[..], &[AZURE][..], ProviderKind::GithubActions, github::URL),
            (&GITHUB[..1], &[AZURE][..], ProviderKind::GithubActions, "GITHUB_ACTIONS is true"),
            (&GITHUB[..1], &[SPEC][..], ProviderKind::Namespace, "/var/run/nsc/token.spec is there"),
            (&[(namespace::TOKEN_FILE, "/t")][..], &[GOOGLE][..], ProviderKind::Namespace, namespace::TOKEN_FILE),
            (&[][..], &[GOOGLE][..], ProviderKind::Gce, PRODUCT),
            (&[(namespace::SPEC, "")][..], &[AZURE][..], ProviderKind::Azure, CHASSIS),
        ] {
            let detected = found(variables, files).unwrap();
            assert_eq!(detected.provider, provider);
            assert!(detected.because.contains(sign), "{}", detected.because);
        }
    }

    #[test]
    fn two_signs_of_the_same_weight_are_for_a_person_to_judge() {
        let said = found(&GITHUB, &[SPEC]).unwrap_err().to_string();
        assert!(said.contains("github-actions (ACTIONS_ID_TOKEN_REQUEST_URL is set) and namespace ("), "{said}");
    }

    #[test]
    fn nothing_is_guessed() {
        for files in [&[][..], &[(PRODUCT, "KVM"), (CHASSIS, "")][..]] {
            assert_eq!(found(&[], files), Err(DetectError::Nothing));
        }
    }
}
