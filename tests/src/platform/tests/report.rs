use serde_json::json;

use super::super::report::{ReportSink, Violation};
use super::LIMIT;

/// A report that is as the protocol says.
pub(super) fn report(instance: &str, boot_id: &str, boottime_ms: u64) -> Vec<u8> {
    let time = "2026-01-02T03:04:05Z";
    let status = json!({
        "version": 1, "instance": null, "phase": "online", "reason": null, "notices": [], "since": time, "since_ms": 5, "node": null,
        "daemon": { "version": "1.102.3", "backend_state": "Running", "health": [], "restarts": 0 },
        "agent": { "version": "0.1.0", "pid": 7, "started_at": time }, "boot": { "stages": [] },
        "identity": { "verdict": "fresh", "evidence": [] }, "metadata": { "provider": "devbox" },
    });
    let report = json!({
        "version": 1, "instance_id": instance, "boot_id": boot_id, "boottime_ms": boottime_ms,
        "generation": "1", "sent_at": time, "status": status,
    });
    report.to_string().into_bytes()
}

#[test]
fn time_grows_within_a_boot_and_boots_do_not_come_back() {
    let sink = ReportSink::default();
    let take = |boot, time| sink.take("i-1", &report("i-1", boot, time)).map_err(|violation| violation.code().as_u16());
    assert_eq!(take("a", 10), Ok(()));
    assert_eq!(take("a", 11), Ok(()));
    assert_eq!(take("a", 11), Ok(()), "the same once more is safe");
    assert_eq!(take("a", 9), Err(409));
    assert_eq!(take("b", 1), Ok(()), "a new boot starts its own clock");
    assert_eq!(take("a", 12), Err(409), "an old boot is over");
    assert_eq!(sink.violations().len(), 2);
    assert_eq!(sink.latest("i-1").map(|last| last.boot_id), Some("b".to_owned()));
}

#[test]
fn another_report_at_the_same_time_is_out_of_order() {
    let sink = ReportSink::default();
    let first = report("i-1", "a", 10);
    let second = String::from_utf8(first.clone()).expect("UTF-8").replace("online", "degraded");
    sink.take("i-1", &first).expect("a good report");
    assert!(matches!(sink.take("i-1", second.as_bytes()), Err(Violation::Order { .. })));
}

#[test]
fn what_breaks_the_schema_is_refused_and_remembered() {
    let good = String::from_utf8(report("i-1", "a", 1)).expect("UTF-8");
    let cases = [
        ("not json".to_owned(), 400),
        (good.replace("\"version\":1", "\"version\":2"), 400),
        (good.replace("\"boottime_ms\":1", "\"boottime_ms\":\"1\""), 400),
        (good.replace("\"boot_id\":\"a\"", "\"boot_id\":\"\""), 400),
        (good.replace("2026-01-02T", "yesterday "), 400),
        (good.replace("\"online\"", "\"fine\""), 400),
        (good.replace("\"node\":null", "\"node\":\"web-api\""), 400),
        (good.replace("\"i-1\"", "\"i-2\""), 403),
        (good.replace("\"online\"", &format!("\"{}\"", "x".repeat(16 * 1024))), 413),
    ];
    let sink = ReportSink::default();
    for (body, code) in &cases {
        let violation = sink.take("i-1", body.as_bytes()).expect_err(body);
        assert_eq!(violation.code().as_u16(), *code, "{violation}");
    }
    assert_eq!(sink.violations().len(), cases.len());
    assert!(sink.latest("i-1").is_none());
}

#[tokio::test]
async fn a_waiter_gets_the_report_it_waits_for() {
    let sink = ReportSink::default();
    let waiter = sink.clone();
    let waiting = tokio::spawn(async move { waiter.wait_for("i-1", LIMIT, |report| report.boottime_ms == 2).await });
    sink.take("i-1", &report("i-1", "a", 1)).expect("a good report");
    sink.take("i-1", &report("i-1", "a", 2)).expect("a good report");
    let report = waiting.await.expect("no panic").expect("the report");
    assert_eq!((report.phase(), report.reason()), ("online", None));
}
