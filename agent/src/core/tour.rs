//! Holds the generated parts of `agent/README.md` to the tables that they show.

use std::fmt::Write as _;

use super::phase::Phase;
use super::reason::{Class, Code};
use super::rules::RULES;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($words:tt)*) => { let _ = writeln!($out, $($words)*); };
}

fn rules() -> String {
    let mut out = String::from("| rule | what it sees to | effects it may want |\n| --- | --- | --- |\n");
    for rule in RULES {
        let wants: Vec<_> = rule.wants.iter().map(|kind| format!("`{}`", kind.as_str())).collect();
        line!(out, "| {} | {} | {} |", rule.name, rule.says, wants.join(" "));
    }
    out
}

/// The ladder of rules that claim a phase: the first whose condition holds has it.
fn phases() -> String {
    let mut out = String::from("```mermaid\nflowchart LR\n");
    let claiming: Vec<_> = RULES.iter().filter(|rule| !rule.phases.is_empty()).collect();
    for pair in claiming.windows(2) {
        line!(out, "    {} -- else --> {}", rule_id(pair[0].name), rule_id(pair[1].name));
    }
    for rule in claiming {
        line!(out, "    {}{{{{{}}}}}", rule_id(rule.name), rule.name);
        for phase in rule.phases {
            line!(out, "    {} --> {phase}", rule_id(rule.name));
        }
    }
    out.push_str("```\n");
    out
}

fn rule_id(name: &str) -> String {
    format!("rule_{name}")
}

fn reasons() -> String {
    let mut out = String::from("| code | class | what it means | what to do |\n| --- | --- | --- | --- |\n");
    for code in Code::ALL {
        let class = match code.class() {
            Class::Waiting => "waiting",
            Class::Degraded => "degraded",
            Class::Blocked => "blocked",
            Class::Notice => "notice",
        };
        line!(out, "| `{code}` | {class} | {} | {} |", code.sentence(), code.remedy());
    }
    out
}

/// Puts `generated` between the markers of `name`.
fn replaced(text: &str, name: &str, generated: &str) -> String {
    let (start, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = text.split_once(&start).expect("the start marker");
    let (_, after) = rest.split_once(&end).expect("the end marker");
    format!("{before}{start}\n{generated}\n{end}{after}")
}

#[test]
fn the_tour_shows_the_tables_as_they_are() {
    let found = std::fs::read_to_string(FILE).expect("agent/README.md");
    let mut expected = found.clone();
    for (name, generated) in [("rules", rules()), ("phases", phases()), ("reasons", reasons())] {
        expected = replaced(&expected, name, &generated);
    }
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(FILE, &expected).expect("a writable tree");
    }
    assert!(found == expected, "{FILE} is not up to date: run UPDATE_REFERENCE=1 cargo test --workspace --lib tour");
}

#[test]
fn every_phase_is_claimed_by_a_rule() {
    for phase in Phase::ALL {
        assert!(RULES.iter().any(|rule| rule.phases.contains(phase)), "no rule claims {phase}");
    }
}
