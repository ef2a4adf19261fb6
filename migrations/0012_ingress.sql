-- What arrives by webhook: events with the jobs they became, the keys by which a repetition is known, and what nobody
-- knew what to do with. Errors of ours: BH040 jobs_rejected.

-- One row an event. The body is kept as it arrived until the row expires, because a provider moves fields without
-- notice and what was normalised away cannot be guessed later. Jobs carry their own payload and need this row no more.
create table backhaul.ingress_events (
    id uuid primary key,
    tenant text not null,
    source text not null,
    event_type text,
    channel text,
    occurred_at timestamptz,
    received_at timestamptz not null,
    body bytea,
    traceparent text,
    jobs bigint[] not null default '{}',
    -- Why no job came of it; null for an event that became jobs, or that somebody has decided on.
    parked text check (parked ~ '^[a-z][a-z0-9_]{0,63}$'),
    detail text,
    expires_at timestamptz not null
);
create index ingress_events_expiry on backhaul.ingress_events (expires_at);
create index ingress_events_parked on backhaul.ingress_events (received_at) where parked is not null;

-- A delivery that was seen. Two keys may lead to one event: what it is called (the sender's id for it, or else its
-- identity), and the signature that must not be used twice. Keys are hashes: ids come from outside and may be long, or personal.
create table backhaul.ingress_keys (
    tenant text not null,
    source text not null,
    key bytea not null check (octet_length(key) = 32),
    event_id uuid not null,
    expires_at timestamptz not null,
    primary key (tenant, source, key)
) with (autovacuum_vacuum_scale_factor = 0.05);
create index ingress_keys_expiry on backhaul.ingress_keys (expires_at);

-- Which secret a source's webhook was last registered with, as a hash under that secret. Upstreams never show secrets, so
-- that without it a new one would not reach them, and deliveries would be refused once the previous one is taken away.
create table backhaul.ingress_registrations (
    tenant text not null,
    source text not null,
    secret_mark bytea not null check (octet_length(secret_mark) = 32),
    registered_at timestamptz not null,
    primary key (tenant, source)
);

create function backhaul.registration_mark(p_tenant text, p_source text) returns bytea
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select r.secret_mark from backhaul.ingress_registrations r where r.tenant = p_tenant and r.source = p_source
$$;

create function backhaul.remember_registration(p_tenant text, p_source text, p_mark bytea) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.ingress_registrations as r (tenant, source, secret_mark, registered_at)
    values (p_tenant, p_source, p_mark, clock_timestamp())
    on conflict (tenant, source) do update set
        secret_mark = excluded.secret_mark, registered_at = excluded.registered_at
$$;

-- Takes an event in: its keys, its row and its jobs, all or nothing, in the caller's one statement. A repetition that
-- arrives while the first is under way waits on the unique index, and is answered by what became of it: two replicas
-- make one set of jobs. `p_jobs` is as for enqueue_many; `p_parked` says why there are none; `p_unsigned_id` is the one of
-- the keys, if any, that anybody could have written into a captured delivery.
create function backhaul.ingest(
    p_tenant text, p_source text, p_keys bytea[], p_window interval, p_event uuid, p_event_type text, p_channel text,
    p_occurred_at timestamptz, p_received_at timestamptz, p_body bytea, p_traceparent text, p_jobs jsonb,
    p_parked text, p_detail text, p_unsigned_id bytea default null
) returns table (event_id uuid, outcome text, job_ids bigint[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_first uuid;
    v_jobs bigint[] := '{}';
    -- A person needs time to look at what was parked.
    v_keep interval := case when p_parked is null then p_window else greatest(p_window, interval '30 days') end;
begin
    perform pg_current_xact_id();
    with keys as (
        -- In key order, so that two deliveries cannot deadlock; see enqueue_many for the update that changes nothing.
        insert into backhaul.ingress_keys as x (tenant, source, key, event_id, expires_at)
        select p_tenant, p_source, k, p_event, clock_timestamp() + p_window from unnest(p_keys) k order by k
        on conflict (tenant, source, key) do update set
            event_id = case when x.expires_at <= clock_timestamp() then excluded.event_id else x.event_id end,
            expires_at = case when x.expires_at <= clock_timestamp() then excluded.expires_at else x.expires_at end
        returning x.event_id
    ) select k.event_id into v_first from keys k where k.event_id <> p_event limit 1;
    if v_first is not null then
        -- Whichever of the keys was new leads to the first event as well, but for an id that is not signed: it may be
        -- that of a delivery still to come, which would then be taken for seen and be lost.
        delete from backhaul.ingress_keys x
        where x.tenant = p_tenant and x.source = p_source and x.key = p_unsigned_id and x.event_id = p_event;
        update backhaul.ingress_keys x set event_id = v_first
        where x.tenant = p_tenant and x.source = p_source and x.key = any (p_keys) and x.event_id = p_event;
        return query select v_first, 'duplicate', '{}'::bigint[];
        return;
    end if;
    if p_parked is null then
        v_jobs := backhaul.ingress_jobs(p_jobs);
    end if;
    insert into backhaul.ingress_events (id, tenant, source, event_type, channel, occurred_at, received_at, body,
                                         traceparent, jobs, parked, detail, expires_at)
    values (p_event, p_tenant, p_source, p_event_type, p_channel, p_occurred_at, p_received_at, p_body, p_traceparent,
            v_jobs, p_parked, p_detail, clock_timestamp() + v_keep);
    return query select p_event, case when p_parked is null then 'accepted' else 'parked' end, v_jobs;
end $$;
comment on function backhaul.ingest is 'Takes a webhook event in with its jobs: accepted, duplicate or parked.';

-- All of an event's jobs or none: a destination that refuses its job must not leave the others with theirs.
create function backhaul.ingress_jobs(p_jobs jsonb) returns bigint[] language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_reason text;
begin
    select array_agg(e.job_id order by e.position), min(e.reason) filter (where e.outcome = 'rejected')
    into v_ids, v_reason from backhaul.enqueue_many(p_jobs) e;
    if v_reason is not null then
        raise exception 'jobs_rejected: %', v_reason using errcode = 'BH040',
            hint = 'correct the destination in routes.toml and replay the event';
    end if;
    return coalesce(v_ids, '{}');
end $$;

-- An event that nobody knew what to do with becomes jobs after all. The program routes the body anew and brings them.
create function backhaul.parked_replay(p_event uuid, p_jobs jsonb, p_actor text, p_why text) returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_jobs bigint[];
    e backhaul.ingress_events;
begin
    e := backhaul.lock_parked(p_event);
    v_jobs := backhaul.ingress_jobs(p_jobs);
    update backhaul.ingress_events x set parked = null, jobs = v_jobs where x.id = e.id;
    perform backhaul.append_parked('dev.backhaul.ingress.replayed', e, p_actor, p_why);
    return v_jobs;
end $$;

create function backhaul.parked_discard(p_event uuid, p_actor text, p_why text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    e backhaul.ingress_events;
begin
    e := backhaul.lock_parked(p_event);
    -- The row stays as long as its keys do: a repetition is answered, and not parked again.
    update backhaul.ingress_events x set parked = null, body = null where x.id = e.id;
    perform backhaul.append_parked('dev.backhaul.ingress.discarded', e, p_actor, p_why);
end $$;

create function backhaul.lock_parked(p_event uuid) returns backhaul.ingress_events language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e backhaul.ingress_events;
begin
    select * into e from backhaul.ingress_events x where x.id = p_event and x.parked is not null for update;
    if e.id is null then
        raise exception 'not_found: no parked event %', p_event using errcode = 'BH020',
            hint = 'backhaul parked list shows them';
    end if;
    return e;
end $$;

create function backhaul.append_parked(p_type text, e backhaul.ingress_events, p_actor text, p_why text) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.events (event_id, occurred_at, type, tenant, subject, traceparent, data)
    values (backhaul.uuid_v7(), clock_timestamp(), p_type, e.tenant, 'ingress/' || e.id, e.traceparent,
        convert_to(backhaul.canonical(jsonb_strip_nulls(backhaul.by_whom(p_actor)
            || jsonb_build_object('source', e.source, 'tenant', e.tenant, 'reason', e.parked, 'why', p_why))), 'UTF8'))
$$;

-- How many jobs of each tenant could be working now: ready behind an awake cursor, or due. What is for later, is blocked,
-- was paused by a person, or is backfill can wait for days, and says nothing of how far behind the workers are. Each
-- count looks at `p_max` entries of an index at most: what is due without counting may hide what counts, until it is promoted.
-- `due_from` is the hint for the next call, as in promote; null looks at all that is due.
create function backhaul.backlog(p_tenants text[], p_due_from timestamptz[], p_max bigint)
returns table (tenant text, jobs bigint, due_from timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    return query
    select x.tenant, least(p_max, sum(x.n))::bigint, min(x.due_from)
    from (
        select a.tenant, null::timestamptz as due_from,
            (select count(*) from (
                select from unnest(a.lanes, a.priorities, a.positions) as u (lane, priority, place)
                cross join lateral (select from backhaul.jobs j
                                    where j.lane = u.lane and j.priority = u.priority and j.seq > u.place
                                    order by j.seq limit p_max) w
                limit p_max) r) as n
        from (
            select l.tenant, array_agg(c.lane) as lanes, array_agg(c.priority) as priorities,
                array_agg(c.position) as positions
            from (select o.* from backhaul.cursors o where o.awake and o.priority < 4
                  order by o.priority, o.lane offset 0) c
            cross join lateral (select n.kind, n.tenant from backhaul.lanes n
                                where n.id between c.lane and c.lane order by n.id limit 1) l
            where l.tenant = any (p_tenants)
              and not exists (select from backhaul.pauses p where p.kind in (l.kind, '*') and p.tenant in (l.tenant, '*'))
            group by l.tenant) a
        union all
        -- By rows, because an equality of the tenant would leave the choice between two indexes.
        select u.tenant, coalesce(d.oldest, v_now - interval '1 minute'), d.n
        from (select t.tenant, coalesce(t.due_from, '-infinity') as due_from,
                  array(select p.kind from backhaul.pauses p where p.tenant in (t.tenant, '*')) as paused
              from unnest(p_tenants, p_due_from) as t (tenant, due_from)) u
        cross join lateral (
            select min(w.due_at) as oldest,
                count(*) filter (where w.priority < 4 and w.kind <> all (u.paused) and '*' <> all (u.paused)) as n
            from (select j.due_at, j.priority, j.kind from backhaul.jobs j
                  where (j.tenant, j.due_at) >= (u.tenant, u.due_from) and (j.tenant, j.due_at) <= (u.tenant, v_now)
                    and j.due_at is not null and j.rescues < 2
                  order by j.tenant, j.due_at limit p_max) w) d
    ) x group by x.tenant;
end $$;

-- How a job fares, for a caller who waits for it: done, dead, or waiting, with its last failure. A job that is done is
-- told by its last event, because its row is gone.
create function backhaul.job_fate(p_job bigint)
returns table (state text, status text, code text, http_status integer, due_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'waiting', null, j.errors -> -1 ->> 'code', (j.errors -> -1 ->> 'http_status')::integer, j.due_at::timestamptz
    from backhaul.jobs j where j.id = p_job
    union all
    select 'dead', null, d.error ->> 'code', (d.error ->> 'http_status')::integer, null
    from backhaul.dead_letters d where d.id = p_job;
    if not found then
        return query select 'done', (
            select convert_from(e.data, 'UTF8')::jsonb ->> 'status' from backhaul.events e
            where e.job_id = p_job and e.type <> 'dev.backhaul.job.completed' order by e.id desc limit 1
        ), null, null::integer, null::timestamptz;
    end if;
end $$;

-- Deletes what has expired, at most `p_limit` rows of each table; returns how many.
create function backhaul.ingress_expire(p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_keys integer;
    v_events integer;
    v_now timestamptz := clock_timestamp();
begin
    delete from backhaul.ingress_keys x using (
        select y.tenant, y.source, y.key from backhaul.ingress_keys y
        where y.expires_at <= v_now order by y.expires_at limit p_limit for update skip locked) d
    where x.tenant = d.tenant and x.source = d.source and x.key = d.key;
    get diagnostics v_keys = row_count;
    delete from backhaul.ingress_events x using (
        select y.id from backhaul.ingress_events y
        where y.expires_at <= v_now order by y.expires_at limit p_limit for update skip locked) d
    where x.id = d.id;
    get diagnostics v_events = row_count;
    return v_keys + v_events;
end $$;

create view backhaul.parked_events as
select e.id, e.tenant, e.source, e.parked as reason, e.detail, e.event_type, e.channel, e.occurred_at, e.received_at,
    e.expires_at, octet_length(e.body) as bytes
from backhaul.ingress_events e where e.parked is not null;
comment on view backhaul.parked_events is 'Webhook events that became no job, without their bodies.';

do $$
begin
    create role backhaul_ingress nologin;
exception when duplicate_object or unique_violation then
    null;
end $$;

-- A schema's default privileges do not take back what every new function grants to everybody.
revoke all on all functions in schema backhaul from public;

grant usage on schema backhaul to backhaul_ingress;
-- Beside events, the receiver enqueues what its admin address asks for, and counts what waits for workers.
grant execute on function backhaul.ingest, backhaul.backlog, backhaul.ingress_expire, backhaul.job_fate,
    backhaul.enqueue, backhaul.registration_mark, backhaul.remember_registration to backhaul_ingress;
grant select on backhaul.kinds, backhaul.parked_events, backhaul.migrations to backhaul_ingress;
grant select on backhaul.parked_events to backhaul_reader, backhaul_operator;
grant select on backhaul.ingress_events to backhaul_operator;
grant execute on function backhaul.parked_replay, backhaul.parked_discard to backhaul_operator;
