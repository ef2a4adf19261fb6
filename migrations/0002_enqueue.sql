-- The front door. Errors carry an SQLSTATE of ours:
--   BH001 unknown_kind            BH002 payload_not_object     BH003 payload_too_large
--   BH004 idempotency_key_reused  BH005 invalid_argument       BH020 not_found
--   BH021 job_running             BH030 lease_lost

create function backhaul.priority_rank(name text) returns smallint language sql immutable as $$
    select case name when 'critical' then 0 when 'high' then 1 when 'normal' then 2 when 'low' then 3
                     when 'backfill' then 4 end::smallint
$$;

create function backhaul.priority_name(rank smallint) returns text language sql immutable as $$
    select (array['critical', 'high', 'normal', 'low', 'backfill'])[rank + 1]
$$;

-- A timestamp from outside, or null where the text is none. Postgres 15 has no pg_input_is_valid.
create function backhaul.try_timestamptz(value text) returns timestamptz language plpgsql stable as $$
begin
    return value::timestamptz;
exception when data_exception then
    return null;
end $$;

-- What is wrong with the arguments of one job, or null. One function, so that enqueue and enqueue_many agree. Not in
-- language sql: that costs 7 us a row where it is not inlined, and this costs 2 (batches of 1,000).
create function backhaul.job_problem(
    k backhaul.kinds, kind text, payload jsonb, tenant text, idempotency_key text, priority text,
    run_at timestamptz, ordering_key text, max_attempts integer, deadline timestamptz, traceparent text, version integer
) returns text
language plpgsql stable
-- No search_path of its own, which would cost as much again: both callers have fixed theirs, and nobody else may call.
as $$
declare
    v_bytes integer;
begin
    if kind is null then
        return 'invalid_argument: kind is missing';
    elsif version is null or version not between 1 and 9999 then
        return 'invalid_argument: version must be 1 to 9999';
    elsif k.kind is null then
        return 'unknown_kind: ' || left(kind, 64) || ' version ' || version;
    elsif payload is null then
        return 'payload_not_object: payload is missing';
    elsif jsonb_typeof(payload) <> 'object' then
        return 'payload_not_object: payload is ' || jsonb_typeof(payload);
    elsif tenant is null or tenant !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$' then
        return 'invalid_argument: tenant must be 1 to 64 of letters, digits, dot, hyphen and underscore';
    elsif priority is null or priority not in ('critical', 'high', 'normal', 'low', 'backfill') then
        return 'invalid_argument: priority must be critical, high, normal, low or backfill';
    elsif octet_length(idempotency_key) not between 1 and 256 then
        return 'invalid_argument: idempotency_key must have 1 to 256 bytes';
    elsif octet_length(ordering_key) not between 1 and 512 then
        return 'invalid_argument: ordering_key must have 1 to 512 bytes';
    elsif max_attempts not between 1 and 1000 then
        return 'invalid_argument: max_attempts must be 1 to 1000';
    elsif run_at > clock_timestamp() + interval '5 years' or run_at < '2000-01-01' then
        return 'invalid_argument: run_at must lie within five years from now';
    elsif deadline <= greatest(run_at, clock_timestamp()) then
        return 'invalid_argument: deadline must be later than now and run_at';
    elsif deadline > clock_timestamp() + interval '10 years' then
        return 'invalid_argument: deadline must lie within ten years from now';
    elsif traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then
        return 'invalid_argument: traceparent must be a W3C trace context';
    end if;
    v_bytes := octet_length(payload::text);
    if v_bytes > k.payload_bytes_max then
        return 'payload_too_large: ' || v_bytes || ' bytes, at most ' || k.payload_bytes_max;
    end if;
    return null;
end $$;

-- The ordering key that the kind reads from the payload, from the first of its (at most two) dotted paths that is
-- there: the same for every producer, lower-cased because platforms compare UUIDs without case.
create function backhaul.derived_key(k backhaul.kinds, payload jsonb) returns text language sql immutable as $$
    select k.kind || '/' || left(lower(coalesce(payload #>> string_to_array(k.ordering_paths[1], '.'),
                                                payload #>> string_to_array(k.ordering_paths[2], '.'))), 400)
$$;

-- A batch, set-based. One result row per input in the input's order; a bad row is rejected and never fails the batch.
-- The statement after pg_current_xact_id() takes a fresh snapshot: whoever sees a cursor awake already has its
-- transaction id, which the sweep relies on. In a stricter isolation the snapshot may be older, so jobs go through
-- promotion there (due now) instead of being placed behind a cursor.
create function backhaul.enqueue_many(jobs jsonb)
returns table ("position" integer, job_id bigint, outcome text, reason text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_direct boolean := current_setting('transaction_isolation') = 'read committed';
begin
    if jsonb_typeof(jobs) is distinct from 'array' then
        raise exception 'invalid_argument: enqueue_many takes a JSON array of jobs'
            using errcode = 'BH005', hint = 'pass [{"kind": "...", "payload": {...}}, ...]';
    end if;
    if jsonb_array_length(jobs) > 10000 then
        raise exception 'invalid_argument: % jobs in one batch, at most 10000', jsonb_array_length(jobs)
            using errcode = 'BH005', hint = 'split the batch; several batches may share one transaction';
    end if;
    perform pg_current_xact_id();
    return query
    with input as materialized (
        select o.ord, o.e, nextval('backhaul.job_seq') as id, e ->> 'kind' as kind, e -> 'payload' as payload,
               case when e ? 'tenant' then e ->> 'tenant' else 'default' end as tenant,
               e ->> 'idempotency_key' as ikey, coalesce(e ->> 'priority', 'normal') as priority,
               case when e ->> 'run_at' is not null then backhaul.try_timestamptz(e ->> 'run_at') end as run_at,
               e ->> 'ordering_key' as okey,
               case when e ->> 'max_attempts' ~ '^[0-9]{1,4}$' then (e ->> 'max_attempts')::integer end as max_attempts,
               case when e ->> 'deadline' is not null then backhaul.try_timestamptz(e ->> 'deadline') end as deadline,
               e ->> 'traceparent' as traceparent,
               case when e ->> 'version' is null then 1
                    when e ->> 'version' ~ '^[0-9]{1,4}$' then (e ->> 'version')::smallint end as version
        from jsonb_array_elements(jobs) with ordinality as o (e, ord)
    ), checked as materialized (
        select i.ord, i.kind, i.payload, i.tenant, i.ikey, i.priority, i.run_at, i.max_attempts, i.deadline,
               i.traceparent, i.version, backhaul.priority_rank(i.priority) as rank,
               k.max_attempts as kind_attempts, k.deadline as kind_deadline, k.idempotency_window,
               coalesce(i.okey, backhaul.derived_key(k, i.payload)) as okey,
               i.id,
               case
                   when jsonb_typeof(i.e) <> 'object' then 'invalid_argument: a job is a JSON object'
                   when i.e - '{kind,payload,tenant,idempotency_key,priority,run_at,ordering_key,max_attempts,deadline,traceparent,version}'::text[] <> '{}'
                       then 'invalid_argument: unknown member ' || (select left(min(m), 64) from jsonb_object_keys(i.e - '{kind,payload,tenant,idempotency_key,priority,run_at,ordering_key,max_attempts,deadline,traceparent,version}'::text[]) m)
                   -- Another type would do for a key as its text: one key for all jobs of a careless producer.
                   when i.ikey is not null and jsonb_typeof(i.e -> 'idempotency_key') not in ('string', 'number')
                       then 'invalid_argument: idempotency_key must be a string'
                   when i.okey is not null and jsonb_typeof(i.e -> 'ordering_key') not in ('string', 'number')
                       then 'invalid_argument: ordering_key must be a string'
                   when i.e ->> 'run_at' is not null and i.run_at is null then 'invalid_argument: run_at is not a timestamp'
                   when i.e ->> 'deadline' is not null and i.deadline is null then 'invalid_argument: deadline is not a timestamp'
                   when i.e ->> 'max_attempts' is not null and i.max_attempts is null then 'invalid_argument: max_attempts must be 1 to 1000'
                   else backhaul.job_problem(k, i.kind, i.payload, i.tenant, i.ikey, i.priority, i.run_at, i.okey,
                                             i.max_attempts, i.deadline, i.traceparent, i.version)
               end as problem
        from input i left join backhaul.kinds k on k.kind = i.kind and k.version = i.version
    ), keyed as materialized (
        select c.ord, c.id, c.kind || '/' || c.tenant as scope, c.ikey,
               sha256(convert_to(c.payload::text, 'UTF8')) as hash, c.idempotency_window,
               row_number() over (partition by c.kind, c.tenant, c.ikey order by c.ord) as nth
        from checked c where c.problem is null and c.ikey is not null
    ), keys as (
        -- A duplicate is answered from the row as it is now, seen or not by this snapshot: hence the update that
        -- changes nothing. In key order, so that two batches cannot deadlock.
        insert into backhaul.idempotency_keys as x (scope, key, job_id, request_hash, expires_at)
        select y.scope, y.ikey, y.id, y.hash, clock_timestamp() + y.idempotency_window
        from keyed y where y.nth = 1 order by y.scope, y.ikey
        on conflict (scope, key) do update set
            job_id = case when x.expires_at <= clock_timestamp() then excluded.job_id else x.job_id end,
            request_hash = case when x.expires_at <= clock_timestamp() then excluded.request_hash else x.request_hash end,
            expires_at = case when x.expires_at <= clock_timestamp() then excluded.expires_at else x.expires_at end
        returning x.scope, x.key, x.job_id, x.request_hash
    ), answered as materialized (
        select c.*, y.nth,
               case when c.problem is not null then 'rejected'
                    when c.ikey is null or (y.nth = 1 and s.job_id = c.id) then 'inserted'
                    when s.request_hash = y.hash then 'duplicate'
                    else 'rejected' end as outcome,
               s.job_id as first_id
        from checked c
        left join keyed y on y.ord = c.ord
        left join keys s on s.scope = y.scope and s.key = y.ikey
    ), placed as (
        select a.*, u.lane, u.awake,
               row_number() over (partition by a.kind, a.version, a.tenant, a.rank order by a.ord) as nth_in_lane
        from answered a
        left join lateral (
            -- The range and its order leave the planner only the unique index (see 0003_engine.sql).
            select l.id as lane, c.awake from backhaul.lanes l
            join backhaul.cursors c on c.lane = l.id and c.priority = a.rank
            where l.kind = a.kind and l.version = a.version and l.tenant between a.tenant and a.tenant
            order by l.tenant limit 1
        ) u on v_direct
        where a.outcome = 'inserted'
    ), stored as (
        -- Where the cursor sleeps, the first job of the batch goes through promotion, which wakes it for the rest.
        insert into backhaul.jobs (id, lane, priority, version, max_attempts, seq, due_at, deadline_at, kind, tenant,
                                   ordering_key, idempotency_key, traceparent, payload)
        select p.id, p.lane, p.rank, p.version, coalesce(p.max_attempts, p.kind_attempts),
               case when d.direct then p.id end,
               case when not d.direct then coalesce(p.run_at, clock_timestamp()) end,
               coalesce(p.deadline, greatest(p.run_at, clock_timestamp()) + p.kind_deadline),
               p.kind, p.tenant, p.okey, p.ikey, p.traceparent, p.payload
        from placed p
        cross join lateral (select p.lane is not null and (p.awake or p.nth_in_lane > 1)
                                   and (p.run_at is null or p.run_at <= clock_timestamp()) as direct) d
        order by p.ord
    )
    select a.ord::integer,
           case a.outcome when 'inserted' then a.id when 'duplicate' then a.first_id end,
           a.outcome,
           case when a.outcome = 'rejected' then
               coalesce(a.problem, 'idempotency_key_reused: the key belongs to job ' || a.first_id || ' with another payload') end
    from answered a order by a.ord;
end $$;

create function backhaul.enqueue(
    kind text, payload jsonb, tenant text default 'default', idempotency_key text default null,
    priority text default 'normal', run_at timestamptz default null, ordering_key text default null,
    max_attempts integer default null, deadline timestamptz default null, traceparent text default null,
    version integer default 1
) returns table (job_id bigint, outcome text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    k backhaul.kinds;
    v_problem text;
    v_id bigint;
    v_first bigint;
    v_hash bytea;
    v_stored bytea;
    v_lane integer;
    v_awake boolean;
    v_direct boolean;
    v_rank smallint := backhaul.priority_rank(enqueue.priority);
begin
    select x.* into k from backhaul.kinds x where x.kind = enqueue.kind and x.version = enqueue.version;
    v_problem := backhaul.job_problem(k, enqueue.kind, enqueue.payload, enqueue.tenant, enqueue.idempotency_key,
        enqueue.priority, enqueue.run_at, enqueue.ordering_key, enqueue.max_attempts, enqueue.deadline,
        enqueue.traceparent, enqueue.version);
    if v_problem is not null then
        raise exception '%', v_problem using
            errcode = case split_part(v_problem, ':', 1) when 'unknown_kind' then 'BH001'
                when 'payload_not_object' then 'BH002' when 'payload_too_large' then 'BH003' else 'BH005' end,
            hint = case split_part(v_problem, ':', 1)
                when 'unknown_kind' then 'select kind, version from backhaul.kinds lists what this deployment runs'
                when 'payload_not_object' then 'a payload is a JSON object with the members of its kind'
                when 'payload_too_large' then 'store the bulk elsewhere and send a reference'
                else 'see docs/guide/enqueue.md for the arguments' end;
    end if;
    perform pg_current_xact_id();
    v_id := nextval('backhaul.job_seq');
    if enqueue.idempotency_key is not null then
        v_hash := sha256(convert_to(enqueue.payload::text, 'UTF8'));
        insert into backhaul.idempotency_keys as x (scope, key, job_id, request_hash, expires_at)
        values (enqueue.kind || '/' || enqueue.tenant, enqueue.idempotency_key, v_id, v_hash,
                clock_timestamp() + k.idempotency_window)
        on conflict (scope, key) do update set
            job_id = case when x.expires_at <= clock_timestamp() then excluded.job_id else x.job_id end,
            request_hash = case when x.expires_at <= clock_timestamp() then excluded.request_hash else x.request_hash end,
            expires_at = case when x.expires_at <= clock_timestamp() then excluded.expires_at else x.expires_at end
        returning x.job_id, x.request_hash into v_first, v_stored;
        if v_first <> v_id then
            if v_stored <> v_hash then
                raise exception 'idempotency_key_reused: the key belongs to job % with another payload', v_first
                    using errcode = 'BH004', hint = 'use a new key for a new request, or send the first payload again';
            end if;
            job_id := v_first;
            outcome := 'duplicate';
            return next;
            return;
        end if;
    end if;
    if current_setting('transaction_isolation') = 'read committed' then
        select l.id, c.awake into v_lane, v_awake from backhaul.lanes l
        join backhaul.cursors c on c.lane = l.id and c.priority = v_rank
        where l.kind = enqueue.kind and l.version = enqueue.version
          and l.tenant between enqueue.tenant and enqueue.tenant
        order by l.tenant limit 1;
    end if;
    v_direct := coalesce(v_awake, false) and (enqueue.run_at is null or enqueue.run_at <= clock_timestamp());
    insert into backhaul.jobs (id, lane, priority, version, max_attempts, seq, due_at, deadline_at, kind, tenant,
                               ordering_key, idempotency_key, traceparent, payload)
    values (v_id, v_lane, v_rank, enqueue.version, coalesce(enqueue.max_attempts, k.max_attempts),
            case when v_direct then v_id end,
            case when not v_direct then coalesce(enqueue.run_at, clock_timestamp()) end,
            coalesce(enqueue.deadline, greatest(enqueue.run_at, clock_timestamp()) + k.deadline),
            enqueue.kind, enqueue.tenant, coalesce(enqueue.ordering_key, backhaul.derived_key(k, enqueue.payload)),
            enqueue.idempotency_key, enqueue.traceparent, enqueue.payload);
    job_id := v_id;
    outcome := 'inserted';
    return next;
end $$;
