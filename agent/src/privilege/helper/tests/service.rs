//! How long the helper waits, for whom, and when it ends.

use tokio::time::Instant;

use super::*;

fn hanging() -> Stage {
    let stage = Stage::new();
    stage.unit.hangs.store(true, Ordering::SeqCst);
    stage
}

/// Lets the helper get as far as it can.
async fn turn() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_to_its_end_is_given_up_after_two_seconds() {
    let stage = Stage::new();
    let begun = Instant::now();
    let mut slow = stage.connect().await;
    slow.write_all(br#"{"verb":"up"}"#).await.expect("sent, without an end");
    let told = answer(&mut slow).await;
    assert!(told.contains("helper_unavailable") && told.contains("within 2 s"), "{told}");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_verb_has_its_own_deadline_and_its_own_word_for_missing_it() {
    let stage = hanging();
    let begun = Instant::now();
    let fault = stage.client.stop().await.expect_err("it hangs");
    assert_eq!((fault.code, begun.elapsed().as_secs()), (Code::TailscaledHung, 25));
    assert!(fault.detail.ends_with("within 25 s; see systemctl list-jobs"), "{}", fault.detail);
    for (verb, code, seconds) in
        [("login", Code::TailscaledHung, 10), ("up", Code::TailscaledHung, 10), ("logout", Code::LogoutFailed, 5)]
    {
        let stage = Stage::with(policy(), me(), |_, _| vec![Step::Hang]);
        let begun = Instant::now();
        let ended = match verb {
            "login" => stage.client.login(&wanted(), &key()).await,
            "up" => stage.client.up().await,
            _ => stage.client.logout().await,
        };
        let fault = ended.expect_err("it hangs");
        assert_eq!((fault.code, begun.elapsed().as_secs()), (code, seconds), "{verb}: {}", fault.detail);
    }
}

#[tokio::test]
async fn the_ninth_caller_is_told_to_come_again() {
    let stage = hanging();
    let mut under_way = Vec::new();
    for _ in 0..8 {
        let client = stage.client.clone();
        under_way.push(tokio::spawn(async move { client.stop().await }));
    }
    while stage.unit.done().len() < 8 {
        tokio::task::yield_now().await;
    }
    let fault = stage.client.up().await.expect_err("full");
    assert_eq!(fault.code, Code::HelperUnavailable);
    assert!(fault.detail.contains("8 requests are under way"), "{}", fault.detail);
    under_way.pop().expect("eight").abort();
    // Hanging up makes room.
    while stage.client.up().await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn hanging_up_ends_the_verb() {
    let stage = hanging();
    let mut caller = stage.connect().await;
    caller.write_all(br#"{"verb":"stop"}"#).await.expect("sent");
    caller.shutdown().await.expect("ended");
    while stage.unit.done().is_empty() {
        tokio::task::yield_now().await;
    }
    turn().await;
    assert!(!stage.unit.dropped.load(Ordering::SeqCst), "having sent all is not hanging up");
    drop(caller);
    while !stage.unit.dropped.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_has_asked_for_anything_for_ten_seconds() {
    let mut stage = hanging();
    let client = stage.client.clone();
    let begun = Instant::now();
    let under_way = tokio::spawn(async move { client.stop().await });
    (&mut stage.serving).await.expect("no panic");
    assert!(under_way.await.expect("no panic").is_err(), "it hung");
    // 25 s of the verb, then 10 s of nothing.
    assert_eq!(begun.elapsed().as_secs(), 35);
}

#[tokio::test]
async fn told_to_stop_it_carries_out_what_is_under_way() {
    let mut stage = hanging();
    let mut caller = stage.connect().await;
    caller.write_all(br#"{"verb":"stop"}"#).await.expect("sent");
    caller.shutdown().await.expect("ended");
    while stage.unit.done().is_empty() {
        tokio::task::yield_now().await;
    }
    stage.stop.take().expect("once").send(()).expect("it serves");
    turn().await;
    assert!(!stage.serving.is_finished());
    drop(caller);
    (&mut stage.serving).await.expect("no panic");
}
