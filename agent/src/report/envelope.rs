//! The envelope: whose report it is, and where it stands among the others.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::clock::BootTime;
use crate::socket::document::Document;

/// The largest report, in bytes (`devbox/v1`).
pub const REPORT_MAX: usize = 16 * 1024;

/// How texts and lists are cut when a report is too large: the longest text in bytes as JSON writes it, and the longest list. The first
/// cuts reach only what tailscaled says of its health and the details of reasons; the last makes any document small enough, and still
/// leaves the instance's id and the fixed texts of the reason table whole.
const CUTS: [(usize, usize); 4] = [(1024, 32), (512, 16), (256, 8), (136, 4)];

/// What a report says besides the status.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The kernel's id of this boot.
    pub boot_id: &'a str,
    /// When it is sent: reports of one boot are ordered by it.
    pub boottime: BootTime,
    /// The same for people.
    pub sent_at: SystemTime,
}

#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    instance_id: &'a str,
    boot_id: &'a str,
    boottime_ms: BootTime,
    generation: Option<&'a str>,
    sent_at: String,
    status: &'a Value,
}

/// Makes a report of a document, at most [`REPORT_MAX`] bytes; long texts and lists are cut if need be.
///
/// # Errors
/// When the document cannot be written as JSON. `None`: it does not say whose it is yet, so that there is nothing to report.
pub fn report(document: &Document, stamp: Stamp<'_>) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let Some(instance) = &document.instance else { return Ok(None) };
    let mut status = serde_json::to_value(document)?;
    let write = |status: &Value| {
        serde_json::to_vec(&Envelope {
            version: 1,
            instance_id: &instance.id,
            boot_id: stamp.boot_id,
            boottime_ms: stamp.boottime,
            generation: instance.generation.as_deref(),
            sent_at: humantime::format_rfc3339_millis(stamp.sent_at).to_string(),
            status,
        })
    };
    let mut bytes = write(&status)?;
    for (text, list) in CUTS {
        if bytes.len() <= REPORT_MAX {
            break;
        }
        cut(&mut status, text, list);
        bytes = write(&status)?;
    }
    Ok(Some(bytes))
}

fn cut(value: &mut Value, text_max: usize, list_max: usize) {
    match value {
        Value::String(text) => shorten(text, text_max),
        Value::Array(list) => {
            list.truncate(list_max);
            list.iter_mut().for_each(|item| cut(item, text_max, list_max));
        }
        Value::Object(map) => map.values_mut().for_each(|item| cut(item, text_max, list_max)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Cuts a text to `max` bytes of JSON, an ellipsis included.
fn shorten(text: &mut String, max: usize) {
    if text.chars().map(cost).sum::<usize>() <= max {
        return;
    }
    let mut room = max - cost('…');
    let kept: String = text
        .chars()
        .take_while(|c| {
            let fits = cost(*c) <= room;
            room = room.saturating_sub(cost(*c));
            fits
        })
        .collect();
    *text = kept + "…";
}

/// How many bytes JSON needs for a character (RFC 8259 §7).
fn cost(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

/// The document without what changes by itself: only a difference here is news. What is left out still goes with every report.
pub fn essence(document: &Document) -> Document {
    let mut essence = document.clone();
    essence.metadata.fetched_at = None;
    for reason in essence.reason.iter_mut().chain(&mut essence.notices) {
        reason.next_try = None;
    }
    essence
}

#[cfg(test)]
mod tests;
