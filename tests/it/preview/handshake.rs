//! Previews of `handshake`, as far as it writes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_same_request, of_job, of_payload, rows};
use crate::support::Upstream;

const KIND: &str = "handshake";

fn payload(mode: &str, name: &str) -> Value {
    json!({
        "mode": mode,
        "channelId": "ch_1",
        "channel": {
            "name": name,
            "enabled": true,
            "webchatUrl": "https://chat.example.com",
            "corsAllowedOrigins": ["https://shop.example.com"],
            "authProviderId": "auth-provider-1",
            "webchatId": "webchat-ch_1"
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_previewed_before_it_is_applied() {
    let upstream = Upstream::start("preview-hs", "", "").await;
    let jobs = upstream.enqueue(KIND, &[payload("apply", "Web shop")]).await;
    let before = rows(&upstream).await;
    let shown = of_job(&upstream, jobs[0]).await;
    assert_eq!(shown.verdict(), "would_change", "{shown:?}");
    assert_eq!(shown.said["difference"], json!([{"pointer": "/name", "before": "Channel ch_1", "after": "Web shop"}]));
    assert_eq!(rows(&upstream).await, before);
    assert_eq!(upstream.exchanges("genesys/channels").await, ["GET 200"]);

    upstream.work().await;
    assert!(upstream.dead().await.is_empty());
    let requests = upstream.requests("genesys/channels").await;
    assert_same_request(&shown.said["request"], requests.iter().find(|it| it["method"] == "PUT").expect("a write"));
    assert_eq!(of_payload(&upstream, KIND, &payload("apply", "Web shop")).await.verdict(), "already_applied");

    upstream.faults("[[faults]]\nname = \"no\"\nmatch = { class = \"genesys/channels\", method = \"PUT\" }\nthen = { status = 403 }");
    let jobs = upstream.run(KIND, &[payload("apply", "Ours")]).await;
    upstream.write(Method::PATCH, "channels", "ch_1", &json!({"name": "Theirs"})).await;
    let conflict = of_job(&upstream, jobs[0]).await;
    assert_eq!((conflict.verdict(), conflict.code), ("would_conflict", Some(5)), "{conflict:?}");
    let clash = json!({"pointer": "/name", "base": "Web shop", "ours": "Ours", "theirs": "Theirs"});
    assert_eq!(conflict.said["conflicts"], json!([clash]));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_have_nothing_to_preview_and_mistakes_are_listed() {
    let upstream = Upstream::start("preview-hs-probe", "", "").await;
    let mut probe = payload("probe", "Web shop");
    probe["channel"]["webchatUrl"] = json!("https://localhost");
    let refused = of_payload(&upstream, KIND, &probe).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.complaint.contains("preview_pointless"), "{}", refused.complaint);
    let invalid = of_payload(&upstream, KIND, &json!({"mode": "apply", "channelId": "a/b"})).await;
    assert_eq!((invalid.verdict(), invalid.pointers("problems")), ("invalid", vec!["/channelId", "/channel"]));
    assert!(upstream.exchanges("genesys/channels").await.is_empty());
}
