//! The middle and the ends of what was measured.

use serde::{Deserialize, Serialize};

/// The middle and the ends of what was measured, in the unit of what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        // Of an even number, the mean of the two in the middle.
        let upper = values.get(values.len() / 2)?;
        let lower = values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self {
            median: f64::midpoint(*lower, *upper),
            min: *values.first()?,
            max: *values.last()?,
        })
    }

    /// As a ratio, for people.
    pub(crate) fn ratio(&self) -> String {
        format!("{:.3} ({:.3}..{:.3})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_middle_and_ends_whatever_the_order() {
        let spread = Spread::of(vec![9.0, 1.0, 5.0, 3.0, 100.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 5.0,
                min: 1.0,
                max: 100.0
            }
        );
        assert_eq!(Spread::of(vec![4.0, 1.0]).map(|two| two.median), Some(2.5));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
