//! Listings that come in pages: `nextUri`, or `pageNumber` and `pageCount`.

use serde_json::Value;
use url::Url;

/// Most pages of one listing that are read; what goes on behind them is a mistake of the upstream's.
pub const PAGES_MAX: u32 = 100;
/// Longest link to a next page, in bytes.
const LINK_BYTES_MAX: usize = 4096;

/// A query, as pairs.
pub type Query = Vec<(String, String)>;

/// The query that asks for the page behind `listing`, which `query` had asked for; `None` at the end. Of a link only the
/// query is used: the address is the endpoint's, wherever the link leads. A page that names itself as the next ends the
/// listing.
pub fn next(listing: &Value, query: &Query) -> Option<Query> {
    let link = listing.get("nextUri").and_then(Value::as_str).filter(|link| !link.is_empty());
    let next = match link {
        Some(link) => query_of(link)?,
        None => {
            let number = listing.get("pageNumber").and_then(Value::as_u64)?;
            if number >= listing.get("pageCount").and_then(Value::as_u64)? {
                return None;
            }
            let size = listing.get("pageSize").and_then(Value::as_u64);
            let size = size.map(|size| ("pageSize".to_owned(), size.to_string()));
            size.into_iter().chain([("pageNumber".to_owned(), (number + 1).to_string())]).collect()
        }
    };
    (next != *query).then_some(next)
}

/// The query of a link, which may be a path alone.
fn query_of(link: &str) -> Option<Query> {
    if link.len() > LINK_BYTES_MAX {
        return None;
    }
    let url = Url::parse("https://upstream.invalid/").and_then(|base| base.join(link)).ok()?;
    let query: Query = url.query_pairs().into_owned().collect();
    (!query.is_empty()).then_some(query)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_listing_goes_on_while_it_says_so() {
        let start = Query::new();
        assert_eq!(next(&json!({"entities": []}), &start), None);
        assert_eq!(next(&json!([]), &start), None);
        assert_eq!(next(&json!({"pageNumber": 2, "pageCount": 2, "nextUri": null}), &start), None);
        let counted = json!({"pageNumber": 1, "pageCount": 2, "pageSize": 25});
        let second = query(&[("pageSize", "25"), ("pageNumber", "2")]);
        assert_eq!(next(&counted, &start), Some(second.clone()));
        // An upstream that answers the first page for ever.
        assert_eq!(next(&counted, &second), None);
        for link in ["/api/v2/webhooks?cursor=a%20b&n=2", "https://elsewhere.example/?cursor=a%20b&n=2"] {
            let linked = json!({"nextUri": link, "pageNumber": 1, "pageCount": 1});
            assert_eq!(next(&linked, &start), Some(query(&[("cursor", "a b"), ("n", "2")])), "{link}");
        }
        for link in ["/api/v2/webhooks", "", &format!("/?x={}", "y".repeat(5_000))] {
            assert_eq!(next(&json!({"nextUri": link}), &start), None, "{link}");
        }
    }
}
