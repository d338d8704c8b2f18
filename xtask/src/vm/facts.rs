//! What the daemon says of a kernel: which features it found, how its hooks are attached.

use std::collections::BTreeMap;

/// What stands before each fact in the guest's report.
pub(super) const PREFIX: &str = "peerwatch guest says: ";

/// The facts of one kernel.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Features in the order in which they are said: name, and whether the kernel has it.
    pub(super) features: Vec<(String, bool)>,
    /// How each hook is attached; a hook that is not attached is missing.
    pub(super) modes: BTreeMap<String, String>,
    /// Labels of the metric `kernel_info`.
    pub(super) labels: BTreeMap<String, String>,
}

impl Facts {
    /// Picks the facts out of what the guest said.
    pub(super) fn parse(said: &str) -> Self {
        let mut facts = Self::default();
        for fact in said.lines().filter_map(|line| line.strip_prefix(PREFIX)) {
            if let Some((name, state)) = fact
                .strip_prefix("feature ")
                .and_then(|feature| feature.split_once(": "))
            {
                let available = state == "available";
                facts.features.push((name.to_owned(), available));
            } else if let Some(labels) = fact.strip_prefix("peerwatch_hook_info") {
                let mut labels = labels_of(labels);
                if let (Some(hook), Some(mode)) = (labels.remove("hook"), labels.remove("mode")) {
                    facts.modes.insert(hook, mode);
                }
            } else if let Some(labels) = fact.strip_prefix("peerwatch_kernel_info") {
                facts.labels = labels_of(labels);
            }
        }
        facts
    }

    /// Whether the kernel has a feature; none where the daemon knows no such feature.
    pub(super) fn has(&self, feature: &str) -> Option<bool> {
        let mut features = self.features.iter();
        features
            .find(|(name, _)| name == feature)
            .map(|(_, available)| *available)
    }
}

/// The labels of a series in the text format, whose values have no quotes in them.
fn labels_of(text: &str) -> BTreeMap<String, String> {
    let inside = text.split('}').next().unwrap_or_default();
    inside
        .trim_start_matches('{')
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_modes_and_labels_are_read() {
        let said = "test a ... ok\n\
            peerwatch guest says: feature kernel_btf: available\n\
            peerwatch guest says: feature tcx: missing (EINVAL); without it: filters\n\
            peerwatch guest says: peerwatch_hook_info{hook=\"egress\",interface=\"fact0\",mode=\"clsact\"} 1\n\
            peerwatch guest says: peerwatch_kernel_info{release=\"6.1\",btf=\"yes\"} 1\n";
        let facts = Facts::parse(said);
        assert_eq!(facts.features.len(), 2);
        assert_eq!(facts.has("kernel_btf"), Some(true));
        assert_eq!(facts.has("tcx"), Some(false));
        assert_eq!(facts.has("other"), None);
        assert_eq!(facts.modes["egress"], "clsact");
        assert_eq!(facts.labels["btf"], "yes");
    }
}
