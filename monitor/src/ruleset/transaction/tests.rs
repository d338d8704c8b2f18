use super::super::TableFamily;
use super::*;

fn table(name: &str) -> Table {
    Table {
        family: TableFamily::Ip,
        name: name.into(),
    }
}

fn nft() -> Process {
    Process {
        pid: 9,
        name: "nft".into(),
    }
}

fn told(kind: Kind, tables: &[&str]) -> Change {
    Change {
        by: Some(nft()),
        tables: tables.iter().map(|name| table(name)).collect(),
        ..change(kind, Moment::default())
    }
}

fn lost() -> Change {
    missed(Moment::default())
}

fn apply(transactions: &mut Transactions, generation: u16, body: Body) -> Vec<Change> {
    let mut changes = Vec::new();
    let frame = Frame {
        port: 1,
        generation,
        body,
    };
    transactions.apply(frame, Moment::default(), &mut changes);
    changes
}

fn part(transactions: &mut Transactions, generation: u16, kind: Kind, name: &str) {
    let changes = apply(
        transactions,
        generation,
        Body::Part(kind, Some(table(name))),
    );
    assert_eq!(changes, [], "only a complete transaction is told");
}

fn complete(transactions: &mut Transactions, id: u32) -> Vec<Change> {
    let body = Body::Generation {
        id: Some(id),
        by: Some(nft()),
    };
    apply(transactions, lower_half(id), body)
}

/// With generation 7 as the last one before.
fn begun() -> Transactions {
    let mut transactions = Transactions::default();
    assert_eq!(transactions.compare(7, Moment::default()), None);
    transactions
}

#[test]
fn a_transaction_is_one_change_of_each_kind_that_it_touched() {
    let mut transactions = begun();
    part(&mut transactions, 8, Kind::Sets, "one");
    part(&mut transactions, 8, Kind::Rules, "two");
    part(&mut transactions, 8, Kind::Rules, "one");
    assert_eq!(
        complete(&mut transactions, 8),
        [
            told(Kind::Rules, &["one", "two"]),
            told(Kind::Sets, &["one", "two"])
        ]
    );
    part(&mut transactions, 9, Kind::Sets, "one");
    assert_eq!(complete(&mut transactions, 9), [told(Kind::Sets, &["one"])]);
    assert_eq!(
        complete(&mut transactions, 10),
        [told(Kind::Rules, &[])],
        "of what a newer kernel has"
    );
}

#[test]
fn few_tables_are_named() {
    let mut transactions = begun();
    for n in 0..100 {
        part(&mut transactions, 8, Kind::Rules, &n.to_string());
    }
    let changes = complete(&mut transactions, 8);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].tables.len(), MAX_TABLES);
}

#[test]
fn a_gap_in_the_numbers_is_a_change() {
    let mut transactions = begun();
    part(&mut transactions, 8, Kind::Sets, "lost");
    part(&mut transactions, 10, Kind::Sets, "told");
    assert_eq!(
        complete(&mut transactions, 10),
        [lost(), told(Kind::Sets, &["told"])]
    );
    // As after the module was loaded anew.
    assert_eq!(
        complete(&mut transactions, 2),
        [lost(), told(Kind::Rules, &[])]
    );
}

#[test]
fn numbers_wrap_around() {
    let mut transactions = Transactions::default();
    transactions.compare(u32::MAX - 1, Moment::default());
    part(&mut transactions, u16::MAX, Kind::Sets, "t");
    assert_eq!(
        complete(&mut transactions, u32::MAX),
        [told(Kind::Sets, &["t"])]
    );
    part(&mut transactions, 1, Kind::Sets, "t");
    assert_eq!(complete(&mut transactions, 1), [told(Kind::Sets, &["t"])]);
}

#[test]
fn what_belongs_to_no_transaction_is_not_told_with_the_next() {
    let mut transactions = begun();
    part(&mut transactions, 7, Kind::Rules, "quota");
    part(&mut transactions, 8, Kind::Sets, "t");
    assert_eq!(complete(&mut transactions, 8), [told(Kind::Sets, &["t"])]);
    part(&mut transactions, 8, Kind::Rules, "quota");
    assert_eq!(complete(&mut transactions, 9), [told(Kind::Rules, &[])]);
}

#[test]
fn an_answer_tells_what_was_missed() {
    let mut transactions = begun();
    assert_eq!(transactions.compare(7, Moment::default()), None);
    assert_eq!(transactions.compare(12, Moment::default()), Some(lost()));
    part(&mut transactions, 12, Kind::Rules, "t");
    assert_eq!(complete(&mut transactions, 12), [], "told with the answer");
    part(&mut transactions, 13, Kind::Rules, "t");
    assert_eq!(complete(&mut transactions, 13), [told(Kind::Rules, &["t"])]);
}

#[test]
fn a_kernel_that_gives_no_numbers_is_believed() {
    let mut transactions = Transactions::default();
    for _ in 0..2 {
        part(&mut transactions, 0, Kind::Sets, "t");
        let body = Body::Generation {
            id: None,
            by: Some(nft()),
        };
        assert_eq!(
            apply(&mut transactions, 0, body),
            [told(Kind::Sets, &["t"])]
        );
    }
}
