//! Labs and helpers of the tests.
