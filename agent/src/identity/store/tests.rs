use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::clock::BootTime;
use crate::identity::record::RememberedPace;

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn store() -> (tempfile::TempDir, FileStore) {
    let root = tempfile::tempdir().unwrap();
    let store = FileStore::new(root.path().join("state"), uid());
    (root, store)
}

/// A store whose file has these bytes, as an agent would have left them.
fn store_with(bytes: &[u8]) -> (tempfile::TempDir, FileStore) {
    let (root, store) = store();
    directory::ensure(&store.dir, uid()).unwrap();
    write_atomic(&store.file(), bytes, 0o600).unwrap();
    (root, store)
}

fn record(id: &str) -> Record {
    let not_before =
        [("mint".to_owned(), RememberedPace { at: BootTime(7_000), attempts: 2, asked: false, fault: None })].into();
    Record { instance_id: Some(id.into()), boot_id: "b".into(), not_before, ..Record::default() }
}

fn names(store: &FileStore) -> Vec<String> {
    let entries = fs::read_dir(&store.dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn said_of_file_set_aside(loaded: &Loaded) -> &str {
    match &loaded.trouble {
        Some(Trouble::SetAside(said)) => said,
        other => panic!("the file is not set aside: {other:?}"),
    }
}

fn said_of_unreadable(loaded: &Loaded) -> &str {
    match &loaded.trouble {
        Some(Trouble::Unreadable(said)) => said,
        other => panic!("it is not unreadable: {other:?}"),
    }
}

/// Loads, and expects that the file was set aside for a reason with these words.
fn expect_set_aside(store: &FileStore, words: &str) {
    let loaded = store.load();
    let said = said_of_file_set_aside(&loaded);
    assert!(said.contains(words) && said.contains("; it is now "), "{said}");
    assert_eq!(loaded.record, Record::default());
    assert_eq!(names(store), ["state.json.set-aside"]);
    assert_eq!(store.load(), Loaded::default());
}

#[tokio::test]
async fn a_record_survives_a_restart_in_a_versioned_file_of_its_user_alone() {
    let (_root, store) = store();
    assert_eq!(store.load(), Loaded::default());
    store.save(&record("i-1")).await.unwrap();
    store.save(&record("i-2")).await.unwrap();
    assert_eq!(store.load(), Loaded { record: record("i-2"), trouble: None });
    let text = fs::read_to_string(store.file()).unwrap();
    assert!(text.starts_with(r#"{"version":1,"instance_id":"i-2","#), "{text}");
    assert_eq!(fs::metadata(store.file()).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(&store), ["state.json"]);
}

#[tokio::test]
async fn what_cannot_be_parsed_is_set_aside_and_the_agent_goes_on() {
    let whole = br#"{"version":1,"instance_id":"i-1"}"#;
    for bytes in [
        &b""[..],
        b"bad json",
        b"[]",
        b"\xff\xfe",
        br#"{"instance_id":"i-1"}"#,
        &whole[..20],
        br#"{"version":1,"desired":3}"#,
    ] {
        let (_root, store) = store_with(bytes);
        expect_set_aside(&store, "failed to parse ");
        store.save(&record("i-1")).await.unwrap();
        assert_eq!(store.load().record, record("i-1"));
    }
}

#[test]
fn a_newer_version_is_kept_for_the_newer_agent() {
    let newer = br#"{"version":2,"instance_id":{"changed":"shape"}}"#;
    let (_root, store) = store_with(newer);
    expect_set_aside(&store, "has version 2, and this agent knows 1");
    assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), newer);
}

#[test]
fn fields_of_a_later_agent_with_the_same_version_are_tolerated() {
    let (_root, store) = store_with(br#"{"version":1,"instance_id":"i-1","later":[1]}"#);
    assert_eq!(store.load().record.instance_id.as_deref(), Some("i-1"));
}

#[test]
fn a_huge_file_is_set_aside_unread() {
    let (_root, store) = store_with(b"");
    fs::OpenOptions::new().write(true).open(store.file()).unwrap().set_len(1 << 30).unwrap();
    expect_set_aside(&store, "it is 1073741824 bytes long, more than 65536");
}

#[test]
fn a_link_or_a_file_that_others_may_write_is_set_aside_and_nothing_behind_it_is_read() {
    let (root, store) = store_with(b"");
    let target = root.path().join("elsewhere");
    write_atomic(&target, br#"{"version":1,"instance_id":"planted"}"#, 0o600).unwrap();
    fs::remove_file(store.file()).unwrap();
    symlink(&target, store.file()).unwrap();
    expect_set_aside(&store, "Too many levels of symbolic links");
    assert!(target.exists());
    fs::remove_file(store.dir.join("state.json.set-aside")).unwrap();
    write_atomic(&store.file(), br#"{"version":1}"#, 0o666).unwrap();
    expect_set_aside(&store, "group or others may write to it");
}

#[test]
fn only_the_last_file_set_aside_is_kept() {
    let (_root, store) = store_with(b"first");
    store.load();
    write_atomic(&store.file(), b"second", 0o600).unwrap();
    expect_set_aside(&store, "failed to parse ");
    assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), b"second");
}

#[test]
fn what_cannot_be_opened_is_said_and_left() {
    let (_root, store) = store();
    directory::ensure(&store.dir, uid()).unwrap();
    // Opening a socket fails (ENXIO), also for root, whom permissions do not stop.
    let _listener = std::os::unix::net::UnixListener::bind(store.file()).unwrap();
    let loaded = store.load();
    let said = said_of_unreadable(&loaded);
    assert!(said.starts_with("failed to open "), "{said}");
    assert_eq!(names(&store), ["state.json"]);
}

#[test]
fn a_file_that_cannot_be_moved_is_said_too() {
    let (_root, store) = store_with(b"bad json");
    fs::create_dir_all(store.dir.join("state.json.set-aside/full")).unwrap();
    let loaded = store.load();
    let said = said_of_file_set_aside(&loaded);
    assert!(said.contains("failed to parse ") && said.contains("; failed to rename it to "), "{said}");
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_neither_read_nor_written() {
    let (_root, store) = store_with(br#"{"version":1,"instance_id":"planted"}"#);
    let other = FileStore::new(&store.dir, uid() + 1);
    let loaded = other.load();
    assert_eq!(loaded.record, Record::default());
    assert!(said_of_unreadable(&loaded).contains("refused to use "));
    let fault = other.save(&record("i-1")).await.unwrap_err();
    assert_eq!(fault.code, Code::StateUnwritable);
    assert_eq!(store.load().record.instance_id.as_deref(), Some("planted"));
}

#[tokio::test]
async fn a_directory_that_takes_nothing_is_a_fault_with_path_and_cause() {
    // procfs takes no new directory, also not from root.
    let store = FileStore::new("/proc/self/devbox-agent", uid());
    let fault = store.save(&record("i-1")).await.unwrap_err();
    assert_eq!(fault.code, Code::StateUnwritable);
    let start = "failed to create the state directory /proc/self/devbox-agent: ";
    assert!(fault.detail.starts_with(start) && fault.detail.len() > start.len(), "{}", fault.detail);
}

#[tokio::test]
async fn a_failed_save_leaves_no_temporary_and_the_next_one_heals() {
    let (_root, store) = store();
    let obstacle = store.file().join("full");
    fs::create_dir_all(&obstacle).unwrap();
    fs::set_permissions(&store.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let fault = store.save(&record("i-1")).await.unwrap_err();
    assert!(fault.detail.starts_with("failed to replace "), "{}", fault.detail);
    assert_eq!(names(&store), ["state.json"]);
    fs::remove_dir(&obstacle).and_then(|()| fs::remove_dir(store.file())).unwrap();
    store.save(&record("i-1")).await.unwrap();
    assert_eq!(store.load().record, record("i-1"));
}

#[tokio::test]
async fn a_read_only_file_is_replaced() {
    let (_root, store) = store_with(br#"{"version":1}"#);
    fs::set_permissions(store.file(), fs::Permissions::from_mode(0o400)).unwrap();
    store.save(&record("i-1")).await.unwrap();
    assert_eq!(store.load().record, record("i-1"));
}

#[tokio::test]
async fn a_save_whose_caller_has_gone_does_not_overtake_the_next() {
    let (_root, store) = store();
    let mut abandoned_in_time = 0;
    for round in 0..20 {
        let (old, new) = (record("old"), record(&format!("new-{round}")));
        {
            let mut abandoned = store.save(&old);
            abandoned_in_time += u32::from(is_pending_once(abandoned.as_mut()).await);
        }
        store.save(&new).await.unwrap();
        assert_eq!(store.load().record, new);
    }
    assert!(abandoned_in_time > 0, "each was done before its caller went");
}

/// Polls once; whether the future is still pending.
async fn is_pending_once<T>(mut future: std::pin::Pin<&mut (dyn Future<Output = T> + Send + '_)>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[test]
fn temporaries_of_a_killed_agent_are_gone_after_the_next_start() {
    let (_root, store) = store_with(br#"{"version":1}"#);
    fs::write(store.dir.join(".state.json.1-0.tmp"), "half").unwrap();
    store.load();
    assert_eq!(names(&store), ["state.json"]);
}

proptest! {
    // Each case syncs files.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_a_record_or_set_aside(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        "\\{\"version\":[0-3],\"(desired|not_before|boot_id)\":(\"left\"|\\{\\}|-?[0-9]{1,3})\\}".prop_map(String::into_bytes),
    ]) {
        let (_root, store) = store_with(&bytes);
        let loaded = store.load();
        prop_assert_eq!(loaded.trouble.is_some(), !store.file().exists());
        if loaded.trouble.is_some() {
            prop_assert_eq!(loaded.record, Record::default());
            prop_assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), bytes);
        }
    }
}
