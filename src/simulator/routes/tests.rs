use super::*;

#[test]
fn paths_name_resources() {
    let id = || "cfg_1".to_owned();
    let table = [
        ("/api/v2/digitalmessaging/webchat/configurations/cfg_1", Route::Widget(id()), Class::CxoneWebchat),
        (
            "/api/v2/digitalmessaging/webchat/configurations/cfg_1/cache/purge",
            Route::WidgetPurge(id()),
            Class::CxoneWebchat,
        ),
        ("/cxone/.well-known/cxone-configuration", Route::CxoneConfiguration, Class::Other),
        ("/.well-known/openid-configuration", Route::OpenIdConfiguration, Class::Other),
        ("/genesys/api/v2/webchat/channels/cfg_1/publish", Route::ChannelPublish(id()), Class::GenesysChannels),
        ("/genesys/api/v2/webchat/channels/cfg_1/published", Route::ChannelPublished(id()), Class::GenesysChannels),
        ("/crm/api/v1/threads/cfg_1", Route::Thread(id()), Class::CrmThreads),
        ("/threads/cfg_1", Route::Thread(id()), Class::CrmThreads),
        ("/genesys/oauth/token", Route::Token, Class::GenesysToken),
        ("/api/v2/oauth/token", Route::Token, Class::CxoneToken),
        ("/genesys/api/v2/webhooks", Route::Webhooks, Class::GenesysWebhooks),
        ("/webchat", Route::Socket, Class::Socket),
        ("/mute/webchat", Route::Socket, Class::Socket),
        ("/api/v2/profiles/..%2F..%2Fwebhooks", Route::BadId, Class::CxoneProfiles),
        ("/nowhere", Route::Unknown, Class::Other),
    ];
    for (path, route, class) in table {
        let target = parse(path);
        assert_eq!((&target.route, target.class), (&route, class), "{path}");
    }
}

#[test]
fn the_body_tells_whose_webhook_it_is() {
    let target = parse("/api/v2/webhooks");
    let genesys = serde_json::json!({"address": "https://a.example"});
    assert_eq!(class_of_webhook_body(&target, Some(&genesys)), Class::GenesysWebhooks);
    assert_eq!(class_of_webhook_body(&target, None), Class::CxoneWebhooks);
}

#[test]
fn decoding_keeps_what_is_not_an_escape() {
    assert_eq!(percent_decode("a%2Fb%zz%4"), "a/b%zz%4");
    assert_eq!(form_decode("a%3Ab%25%2B%C3%A9+x"), "a:b%+é x");
}

#[test]
fn classes_are_found_by_either_name() {
    assert!(Class::CxoneProfiles.is_named("profiles") && Class::CxoneProfiles.is_named("cxone/profiles"));
    assert!(!Class::CxoneProfiles.is_named("cxone"));
}
