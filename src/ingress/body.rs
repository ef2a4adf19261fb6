//! Reading a body within its bounds: of bytes, of time, and of what it unpacks to.

use std::{io::Read, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::{HeaderMap, header},
};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;

use crate::reply::Refusal;

/// How much of a refused body is read, and for how long, so that its sender gets the answer.
const DRAINED_BYTES_MAX: usize = 32 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the headers say before a byte of the body is read.
///
/// # Errors
/// The body is not JSON, in an encoding that is not read, or too large.
pub(crate) fn admit(headers: &HeaderMap, bytes_max: usize) -> Result<Packing, Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim());
    let media_type = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next()).map(str::trim);
    let is_json = media_type.is_some_and(|media_type| {
        let plain = media_type.eq_ignore_ascii_case("application/json");
        plain
            || (media_type.len() > 17
                && media_type.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("application/"))
                && media_type.get(media_type.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case("+json")))
    });
    if !is_json {
        return Err(Refusal::MediaType("send the event as application/json"));
    }
    let packing = match text(header::CONTENT_ENCODING).map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "identity") => Packing::None,
        Some("gzip" | "x-gzip") => Packing::Gzip,
        Some(_) => return Err(Refusal::MediaType("send the body as it is, or with the encoding gzip")),
    };
    let length = text(header::CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
    if length.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > bytes_max)) {
        return Err(Refusal::TooLarge(bytes_max));
    }
    Ok(packing)
}

/// How the body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// A body on its way.
pub(crate) struct Incoming {
    stream: BodyDataStream,
    bytes: usize,
}

impl Incoming {
    /// Nothing of it is read yet.
    pub(crate) fn new(body: Body) -> Self {
        Self { stream: body.into_data_stream(), bytes: 0 }
    }

    /// Reads the body as it arrives, at most `bytes_max` and for no longer than `timeout`.
    ///
    /// # Errors
    /// It is larger, slower, or breaks off.
    pub(crate) async fn read(&mut self, bytes_max: usize, timeout: Duration) -> Result<Vec<u8>, Refusal> {
        let reading = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.next().await {
                let chunk = chunk.map_err(|_| Refusal::Broken)?;
                if bytes.len() + chunk.len() > bytes_max {
                    return Err(Refusal::TooLarge(bytes_max));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        tokio::time::timeout(timeout, reading).await.unwrap_or(Err(Refusal::Slow))
    }

    /// Reads on without keeping anything: a sender that is still writing would see a broken connection and not the
    /// answer. Ends at the body's end, or when it has been enough.
    pub(crate) async fn drain(mut self) {
        let draining = async {
            while self.bytes < DRAINED_BYTES_MAX {
                let Some(Ok(_)) = self.next().await else { break };
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, draining).await;
    }

    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let chunk = self.stream.next().await;
        if let Some(Ok(chunk)) = &chunk {
            self.bytes = self.bytes.saturating_add(chunk.len());
        }
        chunk
    }
}

/// What a packed body holds, at most `bytes_max`. Called after the signature was verified, and never unpacks further
/// than one byte beyond the bound.
///
/// # Errors
/// It unpacks to more, or is not packed as it says.
pub(crate) fn unpack(bytes: Vec<u8>, packing: Packing, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    if packing == Packing::None {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    match MultiGzDecoder::new(bytes.as_slice()).take(bound).read_to_end(&mut unpacked) {
        Ok(_) if unpacked.len() > bytes_max => Err(Refusal::TooLarge(bytes_max)),
        Ok(_) => Ok(unpacked),
        Err(_) => Err(Refusal::NotJson("the body is not what its content encoding says".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("packs");
        encoder.finish().expect("packs")
    }

    /// Covers row 88: what does not say that it is JSON is refused by its type.
    #[test]
    fn headers_decide_first() {
        for good in
            ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/cloudevents+json"]
        {
            assert_eq!(admit(&headers(&[("content-type", good)]), 10), Ok(Packing::None), "{good}");
        }
        for bad in [
            "text/plain",
            "",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "application/+json",
            "text/json",
        ] {
            assert!(matches!(admit(&headers(&[("content-type", bad)]), 10), Err(Refusal::MediaType(_))), "{bad}");
        }
        assert!(matches!(admit(&HeaderMap::new(), 10), Err(Refusal::MediaType(_))));
        let with = |name, value| admit(&headers(&[("content-type", "application/json"), (name, value)]), 10);
        assert_eq!(with("content-length", "10"), Ok(Packing::None));
        assert_eq!(with("content-length", "11"), Err(Refusal::TooLarge(10)));
        assert_eq!(with("content-encoding", "gzip"), Ok(Packing::Gzip));
        for bad in ["br", "gzip, gzip", "deflate"] {
            assert!(matches!(with("content-encoding", bad), Err(Refusal::MediaType(_))), "{bad}");
        }
    }

    /// Covers row 90: a small body that unpacks to a large one is refused at the bound.
    #[test]
    fn packed_bodies_are_bounded() {
        let bomb = packed(&vec![b' '; 50_000_000]);
        assert!(bomb.len() < 100_000);
        assert_eq!(unpack(bomb, Packing::Gzip, 1_000), Err(Refusal::TooLarge(1_000)));
        assert_eq!(unpack(packed(b"{}"), Packing::Gzip, 2), Ok(b"{}".to_vec()));
        assert_eq!(unpack(packed(b"{} "), Packing::Gzip, 2), Err(Refusal::TooLarge(2)));
        assert!(matches!(unpack(b"{}".to_vec(), Packing::Gzip, 10), Err(Refusal::NotJson(_))));
        let mut cut = packed(b"{\"a\":1}");
        cut.truncate(cut.len() - 4);
        assert!(matches!(unpack(cut, Packing::Gzip, 10), Err(Refusal::NotJson(_))));
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_and_time() {
        let read = async |body: Body, timeout_ms| Incoming::new(body).read(5, Duration::from_millis(timeout_ms)).await;
        assert_eq!(read(Body::from("12345"), 1_000).await, Ok(b"12345".to_vec()));
        assert_eq!(read(Body::from("123456"), 1_000).await, Err(Refusal::TooLarge(5)));
        let endless = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        assert_eq!(read(Body::from_stream(endless), 1).await, Err(Refusal::Slow));
        let broken = futures::stream::iter([Ok(vec![1]), Err(std::io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 1_000).await, Err(Refusal::Broken));
        // Somebody who never stops is not listened to for ever.
        let flood = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 1_024 * 1_024]));
        Incoming::new(Body::from_stream(flood)).drain().await;
    }
}
