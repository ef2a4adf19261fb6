//! Bringing the schema to this program's version, and refusing to work with another.

use sqlx::{
    Arguments, PgPool,
    migrate::Migrator,
    postgres::{PgArguments, PgPoolOptions},
};

use crate::{
    job::KindSpec,
    store::{Store, StoreError},
};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name("backhaul.migrations");
    migrator.create_schema("backhaul");
    migrator
}

/// Newest schema version this program knows.
pub fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Version of the schema in the database; 0 where there is none.
pub async fn schema_version(store: &Store) -> Result<i64, StoreError> {
    let present: bool =
        sqlx::query_scalar("select to_regclass('backhaul.migrations') is not null").fetch_one(store).await?;
    if !present {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("select coalesce(max(version), 0) from backhaul.migrations where success")
        .fetch_one(store)
        .await?)
}

async fn run(connection: &PgPool) -> Result<(), StoreError> {
    // Waiting for another process that migrates, or building an index of a large table, takes longer than any
    // statement of a worker may.
    sqlx::query("set statement_timeout = '30 min'").execute(connection).await?;
    Ok(migrator().run(connection).await?)
}

/// Applies what is missing and registers the kinds. Safe when two processes start at once: one waits for the other.
/// Returns the version before and after.
pub async fn migrate(store: &Store, kinds: &[KindSpec]) -> Result<(i64, i64), StoreError> {
    let before = schema_version(store).await?;
    let known = known_version();
    if before > known {
        return Err(StoreError::SchemaNewer { found: before, known });
    }
    if before < known {
        // A connection of its own, closed either way: migrations hold a lock of their session, which one that failed
        // does not give back, and others would wait for it as long as a pool kept the session.
        let own = PgPoolOptions::new().max_connections(1).connect_with(store.options().clone()).await?;
        let migrated = run(&own).await;
        own.close().await;
        migrated?;
    }
    register_kinds(store, kinds).await?;
    Ok((before, schema_version(store).await?))
}

/// Refuses a schema that is not this program's.
pub async fn check_version(store: &Store) -> Result<(), StoreError> {
    let (found, known) = (schema_version(store).await?, known_version());
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaNewer { found, known }),
        std::cmp::Ordering::Less => Err(StoreError::SchemaOlder { found, known }),
    }
}

/// Writes the constants of the kinds, so that producers in SQL are held to them. For whoever decides that a version is
/// the one that counts, which is `backhaul migrate`.
pub async fn register_kinds(store: &Store, kinds: &[KindSpec]) -> Result<(), StoreError> {
    for kind in kinds {
        let sql = "insert into backhaul.kinds as k (kind, version, max_attempts, timeout, deadline, idempotency_window,
                 payload_bytes_max, ordering_paths, pacing)
             values ($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5), make_interval(secs => $6), $7, $8, $9)
             on conflict (kind, version) do update set max_attempts = excluded.max_attempts,
                 timeout = excluded.timeout, deadline = excluded.deadline,
                 idempotency_window = excluded.idempotency_window, payload_bytes_max = excluded.payload_bytes_max,
                 ordering_paths = excluded.ordering_paths, pacing = excluded.pacing
             where (k.max_attempts, k.timeout, k.deadline, k.idempotency_window, k.payload_bytes_max, k.ordering_paths, k.pacing)
                 is distinct from (excluded.max_attempts, excluded.timeout, excluded.deadline,
                     excluded.idempotency_window, excluded.payload_bytes_max, excluded.ordering_paths, excluded.pacing)";
        sqlx::query_with(sql, constants(kind)?).execute(store).await?;
    }
    Ok(())
}

/// Writes the constants of kinds that the database does not know yet, and no others: an older program that restarts while
/// a newer one is rolled out would take the newer one's back.
pub(crate) async fn introduce_kinds(store: &Store, kinds: &[KindSpec]) -> Result<(), StoreError> {
    for kind in kinds {
        let sql = "with added as (
                 insert into backhaul.kinds (kind, version, max_attempts, timeout, deadline, idempotency_window,
                     payload_bytes_max, ordering_paths, pacing)
                 values ($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5), make_interval(secs => $6), $7, $8, $9)
                 on conflict (kind, version) do nothing
             )
             select coalesce((
                 select (k.max_attempts, k.timeout, k.deadline, k.idempotency_window, k.payload_bytes_max, k.ordering_paths,
                         k.pacing)
                     is not distinct from ($3, make_interval(secs => $4), make_interval(secs => $5),
                         make_interval(secs => $6), $7, $8, $9)
                 from backhaul.kinds k where k.kind = $1 and k.version = $2), true)";
        let same: bool = sqlx::query_scalar_with(sql, constants(kind)?).fetch_one(store).await?;
        if !same {
            tracing::warn!(
                kind = kind.kind,
                version = kind.version,
                "the database has other constants of the kind, which count; `backhaul migrate` of this version writes these"
            );
        }
    }
    Ok(())
}

/// The constants of a kind, in the order of both statements.
fn constants(kind: &KindSpec) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let ordering = kind.ordering_key.map(|path| path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
    let pacing: Vec<String> = kind.pacing.iter().map(|bucket| (*bucket).to_owned()).collect();
    arguments.add(kind.kind).map_err(sqlx::Error::Encode)?;
    arguments.add(kind.version).map_err(sqlx::Error::Encode)?;
    arguments.add(i16::try_from(kind.max_attempts).unwrap_or(i16::MAX)).map_err(sqlx::Error::Encode)?;
    for time in [kind.timeout, kind.deadline, kind.idempotency_window] {
        arguments.add(time.as_secs_f64()).map_err(sqlx::Error::Encode)?;
    }
    arguments.add(i32::try_from(kind.payload_bytes_max).unwrap_or(i32::MAX)).map_err(sqlx::Error::Encode)?;
    arguments.add(ordering).map_err(sqlx::Error::Encode)?;
    arguments.add(pacing).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}
