use super::*;

fn tables(contents: &[(&str, Content)]) -> Tables {
    contents
        .iter()
        .map(|(name, content)| ((*name).to_owned(), *content))
        .collect()
}

#[test]
fn tables_that_differ_are_named() {
    let before = tables(&[
        ("filter", Content::Hash(1)),
        ("mangle", Content::Hash(2)),
        ("nat", Content::AsNew),
        ("raw", Content::Hash(3)),
    ]);
    assert_eq!(differences(&before, &before), Vec::<String>::new());
    let now = tables(&[
        ("filter", Content::Hash(9)),
        ("mangle", Content::Hash(2)),
        ("nat", Content::Hash(4)),
        ("security", Content::Hash(5)),
    ]);
    assert_eq!(
        differences(&before, &now),
        ["filter", "nat", "raw", "security"]
    );
}

#[test]
fn a_table_that_is_as_new_may_come_and_go() {
    let (without, with) = (tables(&[]), tables(&[("nat", Content::AsNew)]));
    assert_eq!(differences(&without, &with), Vec::<String>::new());
    assert_eq!(differences(&with, &without), Vec::<String>::new());
}

#[test]
fn what_could_not_be_read_is_no_change() {
    let known = tables(&[("nat", Content::Hash(1))]);
    let unknown = tables(&[("nat", Content::Unknown)]);
    assert_eq!(differences(&known, &unknown), Vec::<String>::new());
    assert_eq!(differences(&unknown, &known), Vec::<String>::new());
}
