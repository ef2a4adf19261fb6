//! Functions that run with their owner's rights cannot be made to run somebody else's code.

use sqlx::{AssertSqlSafe, Connection};

use crate::support::{Login, database, refusal};

/// Every function that runs with its owner's rights looks names up where nobody else can put any.
#[tokio::test(flavor = "multi_thread")]
async fn functions_of_the_owner_fix_their_search_path() {
    let db = database().await;
    let loose: Vec<(String,)> = db
        .rows(
            "select oid::regprocedure::text from pg_proc
             where pronamespace = 'backhaul'::regnamespace and prosecdef
               and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)",
        )
        .await;
    assert!(loose.is_empty(), "{loose:?}");
}

/// Objects of a hostile producer, in front of the real ones on its own search path. Each raises when it is used.
const TRAPS: &str = "
    create function public.trap(text, text) returns text language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.trap(anynonarray, text) returns text language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create operator public.|| (leftarg = text, rightarg = text, function = public.trap);
    create function public.coalesced(text, text) returns boolean language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create operator public.= (leftarg = text, rightarg = text, function = public.coalesced);
    create function public.nextval(text) returns bigint language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.clock_timestamp() returns timestamptz language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.pg_current_xact_id() returns xid8 language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create temp table kinds (kind text);
    create temp table jobs (id bigint);
    set search_path = pg_temp, public, pg_catalog;";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_objects_capture_nothing() {
    let db = database().await;
    let login = Login::of(&db, Some("backhaul_producer")).await;
    let grant = format!("grant create on schema public to {}", login.name);
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(db.store.pool()).await.expect("grants");
    let mut hostile = login.connect().await;
    sqlx::raw_sql(TRAPS).execute(&mut hostile).await.expect("sets the traps");
    let call =
        r#"select outcome from backhaul.enqueue('toy', '{"n": 1}', idempotency_key => 'k', ordering_key => 'o')"#;
    let many =
        r#"select outcome from backhaul.enqueue_many('[{"kind": "toy", "payload": {}, "idempotency_key": "l"}]')"#;
    for (sql, expected) in [(call, "inserted"), (call, "duplicate"), (many, "inserted"), (many, "duplicate")] {
        let outcome: String = sqlx::query_scalar(sql).fetch_one(&mut hostile).await.expect(sql);
        assert_eq!(outcome, expected);
    }
    let seen: i64 =
        sqlx::query_scalar("select count(*) from backhaul.my_jobs").fetch_one(&mut hostile).await.expect("reads");
    assert_eq!(seen, 2);
    // The traps would work: without its own path the function walks into them, with the rights of its owner.
    db.run("alter function backhaul.enqueue reset search_path").await;
    hostile.close().await.expect("closes");
    let mut hostile = login.connect().await;
    sqlx::raw_sql("set search_path = public, pg_catalog").execute(&mut hostile).await.expect("sets");
    let caught = refusal(sqlx::query(call).execute(&mut hostile).await);
    assert!(caught.message.starts_with("captured"), "{caught:?}");
    hostile.close().await.expect("closes");
}
