//! A metric family under construction.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::names::Name;

/// A metric family under construction.
///
/// The label values of all series are in one text, and what the library wants, two texts for each label, is
/// made of them only where it is not left from the scrape before: with thousands of series, making it takes longer than
/// everything else of a scrape.
#[derive(Debug)]
pub(super) struct Family {
    name: Name,
    /// The label values of all series, one behind the other.
    text: String,
    /// Where each of them ends in it: as many for each series as the family has labels.
    ends: Vec<usize>,
    values: Vec<Value>,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram(Box<Histogram>),
}

impl Family {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            text: String::new(),
            ends: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds one series.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format has floats; they are exact up to 2^53"
    )]
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        self.add_fraction(labels, value as f64);
    }

    /// Adds one series with a fraction.
    pub(super) fn add_fraction(&mut self, labels: &[(&str, &str)], value: f64) {
        self.push(labels, Value::Number(value));
    }

    /// Adds one series of a histogram: upper bounds with how many are at or below each, then the sum and
    /// the number of all.
    pub(super) fn add_histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let mut histogram = Histogram::default();
        let buckets = buckets.map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        self.push(labels, Value::Histogram(Box::new(histogram)));
    }

    fn push(&mut self, labels: &[(&str, &str)], value: Value) {
        debug_assert!(
            labels.iter().map(|(name, _)| name).eq(self.name.labels),
            "{} with {labels:?}",
            self.name.full
        );
        for (_, label) in labels {
            self.text.push_str(label);
            self.ends.push(self.text.len());
        }
        self.values.push(value);
    }

    /// Name of the family.
    pub(super) fn name(&self) -> &'static str {
        self.name.full
    }

    /// As the library wants it. What a scrape before made of this family is used again: series mostly keep their
    /// places.
    pub(super) fn into_proto(self, before: Option<MetricFamily>) -> MetricFamily {
        let mut family = before.unwrap_or_else(|| {
            let mut family = MetricFamily::default();
            family.set_name(self.name.full.to_owned());
            family.set_help(self.name.help.to_owned());
            family.set_field_type(self.name.kind);
            family
        });
        let metrics = family.mut_metric();
        metrics.truncate(self.values.len());
        metrics.reserve_exact(self.values.len() - metrics.len());
        let names = self.name.labels;
        let mut begin = 0;
        let mut labels = self.ends.iter().map(|&end| {
            let label = self.text.get(begin..end).unwrap_or_default();
            begin = end;
            label
        });
        for (at, value) in self.values.into_iter().enumerate() {
            if let Some(metric) = metrics.get_mut(at) {
                for (pair, label) in metric.mut_label().iter_mut().zip(labels.by_ref()) {
                    if pair.value() != label {
                        pair.set_value(label.to_owned());
                    }
                }
            } else {
                let pairs = names.iter().zip(labels.by_ref());
                metrics.push(Metric::from_label(pairs.map(pair).collect()));
            }
            if let Some(metric) = metrics.get_mut(at) {
                set(metric, self.name.kind, value);
            }
        }
        family
    }
}

fn pair((name, value): (&&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name((*name).to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn set(metric: &mut Metric, kind: MetricType, value: Value) {
    match value {
        Value::Histogram(histogram) => metric.set_histogram(*histogram),
        Value::Number(value) if kind == MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Value::Number(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use crate::metrics::names::{HOOK_ATTACHED, RELOAD};

    fn text(family: &MetricFamily) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(std::slice::from_ref(family));
        let text = text.unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    fn hooks(interfaces: &[(&str, u64)]) -> Family {
        let mut family = Family::new(HOOK_ATTACHED);
        for (interface, value) in interfaces {
            family.add(&[("hook", "egress"), ("interface", interface)], *value);
        }
        family
    }

    #[test]
    fn what_is_used_again_shows_what_is_there_now_and_nothing_else() {
        let steps: [&[(&str, u64)]; 6] = [
            &[("a", 1), ("b", 0), ("c", 1)],
            &[("a", 0), ("b", 0), ("c", 1)],
            // One goes from the middle, and others take its place.
            &[("a", 0), ("c", 7)],
            &[],
            &[("", 1), ("long \"name\"", 2), ("b", 3), ("c", 4)],
            &[("b", 5)],
        ];
        let mut before = None;
        for step in steps {
            let fresh = hooks(step).into_proto(None);
            let again = hooks(step).into_proto(before.take());
            assert_eq!(text(&again), text(&fresh), "{step:?}");
            assert_eq!(again.get_metric().len(), step.len());
            before = Some(again);
        }
    }

    #[test]
    fn a_series_without_labels_keeps_its_place() {
        let one = |value| {
            let mut family = Family::new(RELOAD);
            family.add(&[], value);
            family
        };
        let first = one(1).into_proto(None);
        let second = one(0).into_proto(Some(first));
        assert_eq!(text(&second), ["peerwatch_config_last_reload_successful 0"]);
    }
}
