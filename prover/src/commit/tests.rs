use super::*;

fn mark(index: u64, through_epoch: u64) -> RootMark {
    RootMark { index, root: B256::repeat_byte(u8::try_from(index).unwrap_or(0) + 1), through_epoch }
}

/// Root 0 goes through epoch 4, is final, and the pointer names it.
fn settled() -> Facts {
    let root = Some(mark(0, 4));
    Facts {
        live: root,
        final_live: root,
        latest: root,
        complete_through: None,
        statements: Vec::new(),
        threshold: 2,
        attestor: true,
        patience_over: false,
    }
}

fn stated(through_epoch: u64, signatures: u64, signed_by_us: bool) -> StatementFacts {
    StatementFacts { through_epoch, on_live_root: true, signatures, signed_by_us }
}

fn dead(through_epoch: u64) -> StatementFacts {
    StatementFacts { on_live_root: false, ..stated(through_epoch, 1, true) }
}

fn check(name: &str, facts: Facts, expected: Step) {
    assert_eq!(next_step(&facts), expected, "{name}");
}

#[test]
fn nothing_to_do() {
    let empty = Facts { live: None, final_live: None, latest: None, ..settled() };
    check("a new network", empty, Step::Wait(Waiting::Manifest));
    check("all posted", settled(), Step::Wait(Waiting::Manifest));
}

#[test]
fn the_newest_complete_epoch_is_published() {
    let first = Facts { live: None, final_live: None, latest: None, ..settled() };
    check("the first", Facts { complete_through: Some(0), ..first.clone() }, Step::Publish(0));
    check("many at once", Facts { complete_through: Some(9), ..first }, Step::Publish(9));
    check("after a root", Facts { complete_through: Some(5), ..settled() }, Step::Publish(5));
}

#[test]
fn finality_comes_first() {
    let posted = Facts { live: Some(mark(1, 5)), complete_through: Some(6), ..settled() };
    let wait = Step::Wait(Waiting::Finality { through_epoch: Some(5) });
    check("a posted root", posted.clone(), wait);
    let never = Facts { final_live: None, latest: None, ..posted };
    check("the first posted root", never, wait);
    let disabled = Facts { live: None, ..settled() };
    check("a root just disabled", disabled, Step::Wait(Waiting::Finality { through_epoch: None }));
    let both = Facts { live: Some(mark(1, 5)), final_live: Some(mark(1, 5)), ..settled() };
    check("a final root", both.clone(), Step::AdvanceLatest(mark(1, 5)));
    check("no pointer yet", Facts { latest: None, ..both.clone() }, Step::AdvanceLatest(mark(1, 5)));
    let back = Facts { latest: Some(mark(2, 6)), ..both };
    check("the guardian took one back", back, Step::AdvanceLatest(mark(1, 5)));
}

#[test]
fn a_statement_is_checked_and_signed_before_it_is_posted() {
    let one = |statement| Facts { complete_through: Some(5), statements: vec![statement], ..settled() };
    check("somebody else's", one(stated(5, 1, false)), Step::Attest(5));
    check("enough others signed", one(stated(5, 2, false)), Step::Attest(5));
    check("enough with us", one(stated(5, 2, true)), Step::Post(5));
    let watcher = Facts { attestor: false, ..one(stated(5, 2, false)) };
    check("we are no attestor", watcher, Step::Post(5));
    let wait = Step::Wait(Waiting::Signatures { through_epoch: 5, missing: 1 });
    check("too few", one(stated(5, 1, true)), wait);
    check("too few, no attestor", Facts { attestor: false, ..one(stated(5, 1, false)) }, wait);
}

#[test]
fn a_later_epoch_waits_for_the_signatures_of_the_one_before() {
    let facts = Facts { complete_through: Some(6), statements: vec![stated(5, 1, true)], ..settled() };
    check("at first", facts.clone(), Step::Wait(Waiting::Signatures { through_epoch: 5, missing: 1 }));
    check("not for ever", Facts { patience_over: true, ..facts.clone() }, Step::Publish(6));
    let both = vec![stated(5, 1, true), stated(6, 1, true)];
    let both = Facts { statements: both, patience_over: true, ..facts.clone() };
    check("then for it", both, Step::Wait(Waiting::Signatures { through_epoch: 6, missing: 1 }));
    let older = Facts { statements: vec![stated(5, 2, true), stated(6, 1, true)], ..facts.clone() };
    check("whichever is signed first", older, Step::Post(5));
    let newest = Facts { statements: vec![stated(5, 2, true), stated(6, 2, true)], ..facts };
    check("the newest of these", newest, Step::Post(6));
}

#[test]
fn a_statement_on_another_root_is_passed_over() {
    let facts = Facts { complete_through: Some(5), statements: vec![dead(5)], ..settled() };
    check("alone", facts.clone(), Step::Wait(Waiting::NextEpoch { after: 5 }));
    check("with a later epoch", Facts { complete_through: Some(6), ..facts.clone() }, Step::Publish(6));
    let open = Facts { statements: vec![stated(5, 1, false), dead(6)], complete_through: Some(6), ..facts };
    check("beside one that can be posted", open, Step::Attest(5));
}
