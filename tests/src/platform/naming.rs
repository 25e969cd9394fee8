//! Names in the tailnet as control makes them from the hostnames that nodes report.

use super::headscale::api::Node;

/// Returns whether a node has the name that follows from its hostname, with a number where another had it before (`web-1`); not so after an
/// admin renamed it.
pub fn follows_hostname(node: &Node) -> bool {
    let Some(rest) = node.given_name.strip_prefix(&label(node)) else {
        return false;
    };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Returns the name that follows from a node's hostname, with the first number that makes it free among `nodes`.
pub fn name_by_hostname(node: &Node, nodes: &[Node]) -> String {
    let base = label(node);
    let numbered = (1..).map(|number| format!("{base}-{number}"));
    let free = |name: &String| nodes.iter().all(|other| other.id == node.id || other.given_name != *name);
    std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or(base)
}

/// Hostnames are labels already when the agent reports them; names are in lower case (RFC 4343).
fn label(node: &Node) -> String {
    node.name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, hostname: &str, name: &str) -> Node {
        let text =
            serde_json::json!({ "id": id, "machineKey": "", "nodeKey": "", "name": hostname, "givenName": name });
        serde_json::from_value(text).expect("a node")
    }

    #[test]
    fn a_name_follows_the_hostname_also_with_a_number() {
        assert!(follows_hostname(&node("1", "Web", "web")));
        assert!(follows_hostname(&node("1", "web", "web-1")));
        assert!(!follows_hostname(&node("1", "web-api", "web")));
        assert!(!follows_hostname(&node("1", "web", "web-api")));
    }

    #[test]
    fn a_name_that_others_have_gets_the_first_free_number() {
        let nodes = [node("1", "web", "web"), node("2", "web", "web-1"), node("3", "web", "old")];
        assert_eq!(name_by_hostname(&nodes[2], &nodes), "web-2");
        assert_eq!(name_by_hostname(&nodes[0], &nodes), "web", "its own name is free to it");
    }
}
