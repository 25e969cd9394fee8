use super::*;

/// The fields of an answer of PID 1, as it sent them: reply serial, sender, signature.
const FIELDS: &[u8] = b"\x05\x01u\x00\x02\x00\x00\x00\
    \x07\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\
    \x08\x01g\x00\x01s\x00";

fn message(fields: &[u8], body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
    let mut message = [b"l\x02\x01\x01", &length(body)[..], &[1, 0, 0, 0], &length(fields)].concat();
    message.extend_from_slice(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    [&message, body].concat()
}

async fn received(sent: &[u8]) -> io::Result<Vec<u8>> {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let (mut theirs, sent) = (theirs, sent.to_owned());
    let sender = tokio::spawn(async move { theirs.write_all(&sent).await });
    let mut incoming = PrivateSocket(ours).split().take().0;
    let mut all = Vec::new();
    // A buffer of an odd size: nothing may depend on how much is asked for.
    let mut buffer = [0; 7];
    loop {
        match incoming.recvmsg(&mut buffer).await?.0 {
            0 => break,
            length => all.extend_from_slice(&buffer[..length]),
        }
    }
    sender.await.expect("no panic").expect("sent");
    Ok(all)
}

#[tokio::test]
async fn the_sender_becomes_a_connection_in_every_message_and_nothing_else_changes() {
    let body = b"\x19\x00\x00\x00org.freedesktop.systemd1.\x00";
    let sent = [b"OK 0123456789abcdef0123456789abcdef\r\n", &message(FIELDS, body)[..], &message(FIELDS, b"")].concat();
    let got = received(&sent).await.expect("received");
    let text = String::from_utf8_lossy(&got);
    assert_eq!(text.matches(PID1).count(), 2);
    let changed = sent.iter().zip(&got).filter(|(before, after)| before != after).count();
    assert_eq!((got.len(), changed), (sent.len(), 2));
    assert!(text.contains("org.freedesktop.systemd1."), "the body is as it was");
}

#[tokio::test]
async fn what_looks_like_the_field_in_a_body_is_not_touched() {
    let sent = [b"OK 0\r\n", &message(b"", FIELDS)[..]].concat();
    assert_eq!(received(&sent).await.expect("received"), sent);
}

#[tokio::test]
async fn what_is_no_message_or_too_long_a_one_ends_the_connection() {
    let mut long = message(FIELDS, b"");
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, told) in [(long, "too long"), (vec![b'x'; 64], "no D-Bus message")] {
        let error = received(&[b"OK 0\r\n", &bytes[..]].concat()).await.expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(told), "{error}");
    }
    let cut = &message(FIELDS, b"")[..40];
    let error = received(&[b"OK 0\r\n", cut].concat()).await.expect_err("an error");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
