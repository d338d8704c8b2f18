use super::*;

#[test]
fn only_what_can_change_is_tried_again() {
    let of = |code| cause(&std::io::Error::from_raw_os_error(code));
    for code in [libc::EPERM, libc::ENOMEM, libc::EAGAIN] {
        assert_eq!(of(code), Cause::Passing, "{code}");
    }
    for code in [libc::EACCES, libc::EINVAL, libc::E2BIG] {
        assert_eq!(of(code), Cause::Kernel, "{code}");
    }
}

#[test]
fn only_refusals_that_stay_leave_nothing() {
    let refusal = |cause| Refusal {
        why: String::new(),
        cause,
    };
    let (kernel, no_btf, passing) = (
        refusal(Cause::Kernel),
        refusal(Cause::NoBtf),
        refusal(Cause::Passing),
    );
    let of = |programs: &[Option<&Refusal>]| hopeless(programs.iter().copied()).cloned();
    assert_eq!(of(&[Some(&no_btf), Some(&kernel)]), Some(no_btf.clone()));
    assert_eq!(of(&[Some(&no_btf), None]), None);
    assert_eq!(of(&[None, Some(&kernel)]), None);
    assert_eq!(of(&[Some(&kernel), Some(&passing)]), None);
    assert_eq!(of(&[Some(&passing), Some(&passing)]), None);
}

#[test]
fn an_excerpt_shows_the_end_and_says_what_it_left_out() {
    let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
    let log = lines.join("\n");
    let short = excerpt(&log, false);
    assert!(short.contains("(88 lines left out"), "{short}");
    assert!(short.ends_with("line 99"), "{short}");
    assert!(!short.contains("line 87\n"), "{short}");
    assert_eq!(excerpt(&log, true).lines().count(), 101);
    assert_eq!(excerpt("\n", true), "");
}
