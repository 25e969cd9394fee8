use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::clock::Now;
use crate::core::phase::Phase;
use crate::report::testing::{document, fault, in_phase};

/// Draws the shortest waits that are allowed, which is when a sink is asked most often.
struct Eager;

impl Pace for Eager {
    fn retry(&self, _: u32) -> Duration {
        Duration::ZERO
    }

    fn spread(&self, around: Duration) -> Duration {
        around
    }
}

/// A clock that never moves: the order of reports must not depend on it.
struct Still;

impl Clock for Still {
    fn now(&self) -> Now {
        Now { boot: BootTime(1000), monotonic: Duration::from_secs(1), real: SystemTime::UNIX_EPOCH }
    }
}

type Answer = dyn Fn() -> Option<Result<(), Fault>> + Send + Sync;

/// Remembers reports and when they came, and those that it took, after the time that it needs for one; `None` from the script hangs.
struct Fake {
    reports: Mutex<Vec<(Instant, Value)>>,
    needs: Mutex<Duration>,
    taken: Mutex<Vec<Instant>>,
    answer: Mutex<Box<Answer>>,
}

#[async_trait]
impl Sink for Fake {
    async fn put(&self, report: Vec<u8>) -> Result<(), Fault> {
        let report = serde_json::from_slice(&report).expect("reports are JSON");
        self.reports.lock().unwrap().push((Instant::now(), report));
        let needs = *self.needs.lock().unwrap();
        tokio::time::sleep(needs).await;
        self.taken.lock().unwrap().push(Instant::now());
        let answer = self.answer.lock().unwrap()();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

struct Stage {
    fake: Arc<Fake>,
    documents: watch::Sender<Arc<Document>>,
    interval: watch::Sender<Duration>,
    faults: mpsc::Receiver<Option<Fault>>,
    publisher: Publisher,
}

fn stage(answer: impl Fn() -> Option<Result<(), Fault>> + Send + Sync + 'static) -> Stage {
    let fake = Arc::new(Fake {
        reports: Mutex::default(),
        needs: Mutex::default(),
        taken: Mutex::default(),
        answer: Mutex::new(Box::new(answer)),
    });
    let (documents, document_rx) = watch::channel(Arc::new(document()));
    let (interval, interval_rx) = watch::channel(Duration::from_secs(60));
    let (fault_tx, faults) = mpsc::channel(16);
    let publisher = Publisher::start(PublisherSettings {
        sink: fake.clone(),
        clock: Arc::new(Still),
        pace: Arc::new(Eager),
        boot_id: "b0".into(),
        documents: document_rx,
        interval: interval_rx,
        faults: fault_tx,
    });
    Stage { fake, documents, interval, faults, publisher }
}

impl Stage {
    fn show(&self, document: Document) {
        self.documents.send_replace(Arc::new(document));
    }

    fn answer(&self, answer: impl Fn() -> Option<Result<(), Fault>> + Send + Sync + 'static) {
        *self.fake.answer.lock().unwrap() = Box::new(answer);
    }

    fn count(&self) -> usize {
        self.fake.reports.lock().unwrap().len()
    }

    fn phases(&self) -> Vec<String> {
        let reports = self.fake.reports.lock().unwrap();
        reports.iter().map(|(_, report)| report["status"]["phase"].as_str().unwrap().to_owned()).collect()
    }

    fn codes(&mut self) -> Vec<Option<Code>> {
        std::iter::from_fn(|| self.faults.try_recv().ok()).map(|fault| fault.map(|fault| fault.code)).collect()
    }
}

fn taken() -> Option<Result<(), Fault>> {
    Some(Ok(()))
}

fn refused(code: Code) -> impl Fn() -> Option<Result<(), Fault>> + Send + Sync + 'static {
    move || Some(Err(fault(code)))
}

/// Lets the paused clock run; every timer up to then fires in order.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn changes_within_a_quarter_of_a_second_are_one_report_of_the_latest() {
    let stage = stage(taken);
    pass(0.1).await;
    stage.show(in_phase(Phase::Joining));
    pass(0.1).await;
    stage.show(in_phase(Phase::Degraded));
    assert_eq!(stage.count(), 0);
    pass(0.1).await;
    assert_eq!(stage.phases(), ["degraded"]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_by_itself_waits_for_the_heartbeat() {
    let stage = stage(taken);
    pass(1.0).await;
    for hour in 0..5 {
        let mut document = document();
        document.metadata.fetched_at = Some(format!("2023-11-14T0{hour}:00:00Z"));
        stage.show(document);
        pass(1.0).await;
    }
    assert_eq!(stage.count(), 1);
    pass(60.0).await;
    assert_eq!(stage.count(), 2);
    assert_eq!(stage.fake.reports.lock().unwrap()[1].1["status"]["metadata"]["fetched_at"], "2023-11-14T04:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_taken_back_at_once_is_no_news() {
    let stage = stage(taken);
    pass(1.0).await;
    stage.show(in_phase(Phase::Degraded));
    pass(0.1).await;
    stage.show(document());
    pass(1.0).await;
    assert_eq!(stage.phases(), ["online"]);
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_follows_the_interval() {
    let stage = stage(taken);
    pass(1.0).await;
    stage.interval.send_replace(Duration::from_secs(10));
    pass(100.5).await;
    assert_eq!(stage.count(), 1 + 10);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_spec_nothing_is_sent() {
    let stage = stage(taken);
    stage.show(Document { instance: None, ..document() });
    pass(600.0).await;
    assert_eq!(stage.count(), 0);
    stage.show(document());
    pass(1.0).await;
    assert_eq!(stage.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_sink_costs_seventy_tries_and_ends_with_one_current_report() {
    let mut stage = stage(refused(Code::ReportUnreachable));
    for minute in 0..60 {
        stage.show(in_phase(if minute % 2 == 0 { Phase::Degraded } else { Phase::Joining }));
        pass(60.0).await;
    }
    let tries = stage.count();
    assert!((60..=70).contains(&tries), "{tries}");
    stage.show(in_phase(Phase::Online));
    stage.answer(taken);
    pass(60.0).await;
    assert_eq!(stage.phases()[tries..], ["online"]);
    assert_eq!(stage.codes(), [Some(Code::ReportUnreachable), None], "told when it began and when it ended");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_probed_slowly_whatever_changes() {
    let mut stage = stage(refused(Code::ReportDenied));
    for _ in 0..60 {
        stage.show(in_phase(Phase::Degraded));
        pass(30.0).await;
        stage.show(in_phase(Phase::Online));
        pass(30.0).await;
    }
    assert_eq!(stage.count(), 4, "every 15 minutes");
    assert_eq!(stage.codes(), [Some(Code::ReportDenied)]);
}

#[tokio::test(start_paused = true)]
async fn no_report_is_sent_before_the_sink_wants_one() {
    let wait = Duration::from_secs(1800);
    let stage = stage(move || Some(Err(Fault { retry_after: Some(wait), ..fault(Code::ReportUnreachable) })));
    pass(1800.0).await;
    assert_eq!(stage.count(), 1);
    let fake = stage.fake.clone();
    stage.publisher.finish().await;
    assert_eq!(fake.reports.lock().unwrap().len(), 1, "not even the last");
}

#[tokio::test(start_paused = true)]
async fn reports_are_ordered_even_when_the_clock_does_not_move() {
    let stage = stage(taken);
    for phase in [Phase::Joining, Phase::Online, Phase::Degraded] {
        stage.show(in_phase(phase));
        pass(1.0).await;
    }
    let reports = stage.fake.reports.lock().unwrap();
    let times: Vec<_> = reports.iter().map(|(_, report)| report["boottime_ms"].as_u64().unwrap()).collect();
    assert_eq!(times, [1000, 1001, 1002]);
}

#[tokio::test(start_paused = true)]
async fn the_last_report_is_sent_when_stopping_even_without_news() {
    let stage = stage(taken);
    pass(1.0).await;
    let fake = stage.fake.clone();
    stage.publisher.finish().await;
    assert_eq!(fake.reports.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_report_does_not_overtake_the_one_on_its_way() {
    let stage = stage(taken);
    *stage.fake.needs.lock().unwrap() = Duration::from_millis(400);
    pass(0.3).await;
    assert_eq!(stage.count(), 1, "it is on its way");
    stage.show(in_phase(Phase::Left));
    let before = Instant::now();
    let fake = stage.fake.clone();
    stage.publisher.finish().await;
    assert!(before.elapsed() < LAST);
    let (reports, taken) = (fake.reports.lock().unwrap(), fake.taken.lock().unwrap());
    assert_eq!((reports.len(), taken.len()), (2, 2));
    assert!(taken[0] <= reports[1].0, "the first was taken before the last was sent");
}

#[tokio::test(start_paused = true)]
async fn stopping_interrupts_a_report_and_takes_a_second_at_most() {
    let stage = stage(|| None);
    pass(1.0).await;
    stage.show(in_phase(Phase::Left));
    let before = Instant::now();
    let fake = stage.fake.clone();
    stage.publisher.finish().await;
    assert_eq!(before.elapsed(), LAST);
    let reports = fake.reports.lock().unwrap();
    assert_eq!((reports.len(), reports[1].1["status"]["phase"].as_str()), (2, Some("left")));
}

#[tokio::test(start_paused = true)]
async fn the_publisher_ends_with_the_core() {
    let Stage { fake, documents, publisher, .. } = stage(taken);
    drop(documents);
    publisher.task.await.unwrap();
    assert!(fake.reports.lock().unwrap().is_empty());
}
