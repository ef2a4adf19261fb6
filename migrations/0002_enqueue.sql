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
create function backhaul.try_timestamptz(value text) returns timestamptz language plpgsql stable strict as $$
begin
    return value::timestamptz;
exception when data_exception then
    return null;
end $$;

-- What is wrong with the arguments of one job, or null. One function, so that enqueue and enqueue_many agree.
create function backhaul.job_problem(
    bytes_max integer, kind text, payload jsonb, tenant text, idempotency_key text, priority text,
    run_at timestamptz, ordering_key text, max_attempts integer, deadline timestamptz, traceparent text, version integer
) returns text
language plpgsql stable
-- No search_path of its own, which would cost as much again: all callers have fixed theirs, and nobody else may call.
as $$
declare
    v_bytes integer;
begin
    if kind is null then
        return 'invalid_argument: kind is missing';
    elsif version is null or version not between 1 and 9999 then
        return 'invalid_argument: version must be 1 to 9999';
    elsif bytes_max is null then
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
    if v_bytes > bytes_max then
        return 'payload_too_large: ' || v_bytes || ' bytes, at most ' || bytes_max;
    end if;
    return null;
end $$;

-- What is wrong with one element of a batch, or null. It costs some 5 us, so it is asked only about elements that are
-- not plainly right.
create function backhaul.row_problem(e jsonb) returns text
language plpgsql stable
as $$
declare
    v_bytes_max integer;
    v_unknown text;
    v_version integer;
    v_run_at timestamptz;
    v_deadline timestamptz;
begin
    if jsonb_typeof(e) <> 'object' then
        return 'invalid_argument: a job is a JSON object';
    end if;
    select left(min(m), 64) into v_unknown
    from jsonb_object_keys(e - '{kind,payload,tenant,idempotency_key,priority,run_at,ordering_key,max_attempts,deadline,traceparent,version}'::text[]) m;
    if v_unknown is not null then
        return 'invalid_argument: unknown member ' || v_unknown;
    -- Another type would do for a key as its text: one key for all jobs of a careless producer.
    elsif jsonb_typeof(e -> 'idempotency_key') not in ('string', 'number', 'null') then
        return 'invalid_argument: idempotency_key must be a string';
    elsif jsonb_typeof(e -> 'ordering_key') not in ('string', 'number', 'null') then
        return 'invalid_argument: ordering_key must be a string';
    end if;
    v_run_at := backhaul.try_timestamptz(e ->> 'run_at');
    v_deadline := backhaul.try_timestamptz(e ->> 'deadline');
    if e ->> 'run_at' is not null and v_run_at is null then
        return 'invalid_argument: run_at is not a timestamp';
    elsif e ->> 'deadline' is not null and v_deadline is null then
        return 'invalid_argument: deadline is not a timestamp';
    elsif e ->> 'max_attempts' !~ '^[0-9]{1,4}$' then
        return 'invalid_argument: max_attempts must be 1 to 1000';
    end if;
    v_version := case when e ->> 'version' is null then 1
                      when e ->> 'version' ~ '^[0-9]{1,4}$' then (e ->> 'version')::integer end;
    select x.payload_bytes_max into v_bytes_max from backhaul.kinds x where x.kind = e ->> 'kind' and x.version = v_version;
    return backhaul.job_problem(v_bytes_max, e ->> 'kind', e -> 'payload',
        case when e ? 'tenant' then e ->> 'tenant' else 'default' end, e ->> 'idempotency_key',
        coalesce(e ->> 'priority', 'normal'), v_run_at, e ->> 'ordering_key', (e ->> 'max_attempts')::integer, v_deadline,
        e ->> 'traceparent', v_version);
end $$;

-- The ordering key that the kind reads from the payload, from the first of its (at most two) paths that is there: the
-- same for every producer, lower-cased because platforms compare UUIDs without case.
create function backhaul.derived_key(kind text, path1 text[], path2 text[], payload jsonb) returns text
language sql immutable as $$
    select case when path1 is not null then kind || '/' || left(lower(coalesce(payload #>> path1, payload #>> path2)), 400) end
$$;

-- A batch, set-based. One result row per input in the input's order; a bad row is rejected and never fails the batch.
-- The statement after pg_current_xact_id() takes a fresh snapshot: whoever sees a cursor awake already has its
-- transaction id, which the sweep relies on. In a stricter isolation the snapshot may be older, so jobs go through
-- promotion there (due now) instead of being placed behind a cursor.
--
-- A batch of 1,000 may cost 4 us a row beside its parsing and its inserts, so: what rows have in common is looked up and
-- checked once for each `head`; what is right by one expression is not looked at again; and what passes are read first
-- stands first in their rows. Rows are joined by hash: of a thousand with keys, nested loops compare a million pairs.
create function backhaul.enqueue_many(jobs jsonb)
returns table ("position" integer, job_id bigint, outcome text, reason text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_nestloop = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_direct boolean := current_setting('transaction_isolation') = 'read committed';
    v_now timestamptz := clock_timestamp();
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
        -- The head is an element without the members that differ from row to row. Text, because 1 and 1.0 are equal as
        -- JSON, and "tenant": 1.0 names another tenant.
        select o.ord, nextval('backhaul.job_seq') as id,
               case when jsonb_typeof(o.e) = 'object' then
                   (o.e - '{payload,idempotency_key,run_at,ordering_key,max_attempts,deadline,traceparent}'::text[])::text
               end as head, o.e
        from jsonb_array_elements(jobs) with ordinality as o (e, ord)
    ), heads as materialized (
        select distinct i.head from input i
    ), named as materialized (
        select h.head, h.m ->> 'kind' as kind,
               case when h.m ? 'tenant' then h.m ->> 'tenant' else 'default' end as tenant,
               backhaul.priority_rank(coalesce(h.m ->> 'priority', 'normal')) as rank,
               case when h.m ->> 'version' is null then 1
                    when h.m ->> 'version' ~ '^[0-9]{1,4}$' then (h.m ->> 'version')::smallint end as version
        from (select d.head, d.head::jsonb as m from heads d offset 0) h
        where h.m - '{kind,tenant,priority,version}'::text[] = '{}'
    ), known as materialized (
        select n.head, n.version, n.rank, k.max_attempts, k.payload_bytes_max, k.deadline, k.idempotency_window, n.kind,
               n.tenant, string_to_array(k.ordering_paths[1], '.') as path1, string_to_array(k.ordering_paths[2], '.') as path2,
               case when v_direct then
                   -- The range and its order leave the planner only the unique index (see 0003_promote.sql).
                   (select l.id from backhaul.lanes l
                    where l.kind = n.kind and l.version = n.version and l.tenant between n.tenant and n.tenant
                    order by l.tenant limit 1)
               end as lane
        from named n join backhaul.kinds k on k.kind = n.kind and k.version = n.version
        where n.tenant ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$' and n.rank is not null
    ), facts as materialized (
        -- `awake` is null where there is no cursor. A sum with days in it asks the time zone, so there is one for all.
        select n.*, v_now + n.deadline as deadline_at, (select c.awake from backhaul.cursors c where c.lane = n.lane and c.priority = n.rank) as awake
        from known n
    ), checked as materialized (
        select i.ord, i.id,
               -- What this lets pass, row_problem lets pass too; all else is for row_problem to say.
               case when f.kind is null or jsonb_typeof(i.payload) is distinct from 'object'
                         or octet_length(i.payload::text) > f.payload_bytes_max
                         or i.ikey is not null and (octet_length(i.ikey) not between 1 and 256
                                or jsonb_typeof(i.e -> 'idempotency_key') not in ('string', 'number'))
                         or i.okey is not null and (octet_length(i.okey) not between 1 and 512
                                or jsonb_typeof(i.e -> 'ordering_key') not in ('string', 'number'))
                         or i.max_attempts !~ '^[1-9][0-9]{0,2}$'
                         or i.traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
                         or (i.run_at is null) <> (i.e ->> 'run_at' is null)
                         or (i.deadline is null) <> (i.e ->> 'deadline' is null)
                         or i.run_at not between '2000-01-01' and v_now + interval '5 years'
                         or i.deadline <= greatest(i.run_at, v_now) or i.deadline > v_now + interval '10 years'
                    then backhaul.row_problem(i.e) end as problem,
               i.ikey, f.awake, f.lane, f.rank, f.version, f.max_attempts as kind_attempts, f.deadline as kind_deadline,
               f.deadline_at, f.idempotency_window, f.kind, f.tenant, f.path1, f.path2, i.max_attempts, i.run_at, i.deadline, i.okey,
               i.traceparent, i.payload
        from (select x.ord, x.id, x.head, x.e, x.e -> 'payload' as payload, x.e ->> 'idempotency_key' as ikey,
                     x.e ->> 'ordering_key' as okey, x.e ->> 'max_attempts' as max_attempts,
                     backhaul.try_timestamptz(x.e ->> 'run_at') as run_at,
                     backhaul.try_timestamptz(x.e ->> 'deadline') as deadline, x.e ->> 'traceparent' as traceparent
              from input x offset 0) i
        left join facts f on f.head = i.head
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
    ), told as materialized (
        select y.ord, s.job_id,
               case when y.nth = 1 and s.job_id = y.id then 'inserted'
                    when s.request_hash = y.hash then 'duplicate'
                    else 'rejected' end as outcome
        from keyed y join keys s on s.scope = y.scope and s.key = y.ikey
    ), wakers as materialized (
        -- Where the cursor sleeps, the first job of the batch goes through promotion, which wakes it for the rest. It
        -- must be one that is due: the rest would wait until then.
        select c.lane, c.rank, min(c.ord) as ord
        from checked c left join told t on t.ord = c.ord
        where not c.awake and c.problem is null and (t.ord is null or t.outcome = 'inserted')
          and (c.run_at is null or c.run_at <= v_now)
        group by c.lane, c.rank
    ), stored as (
        insert into backhaul.jobs (id, lane, priority, version, max_attempts, seq, due_at, deadline_at, kind, tenant,
                                   ordering_key, idempotency_key, traceparent, payload)
        select c.id, c.lane, c.rank, c.version, coalesce(c.max_attempts::smallint, c.kind_attempts),
               case when (c.awake or c.ord > w.ord) and (c.run_at is null or c.run_at <= v_now) then c.id end,
               case when (c.awake or c.ord > w.ord) and (c.run_at is null or c.run_at <= v_now) then null
                    else coalesce(c.run_at, clock_timestamp()) end,
               case when c.deadline is not null then c.deadline when c.run_at > v_now then c.run_at + c.kind_deadline
                    else c.deadline_at end,
               c.kind, c.tenant, coalesce(c.okey, backhaul.derived_key(c.kind, c.path1, c.path2, c.payload)), c.ikey,
               c.traceparent, c.payload
        from checked c
        left join told t on t.ord = c.ord
        left join wakers w on w.lane = c.lane and w.rank = c.rank
        where c.problem is null and (t.ord is null or t.outcome = 'inserted')
    )
    select c.ord::integer,
           case when c.problem is not null then null when t.ord is null then c.id
                when t.outcome <> 'rejected' then t.job_id end,
           case when c.problem is not null then 'rejected' when t.ord is null then 'inserted' else t.outcome end,
           case when c.problem is not null then c.problem
                when t.outcome = 'rejected' then
                    'idempotency_key_reused: the key belongs to job ' || t.job_id || ' with another payload' end
    from checked c left join told t on t.ord = c.ord order by c.ord;
end $$;

create function backhaul.enqueue(
    kind text, payload jsonb, tenant text default 'default', idempotency_key text default null,
    priority text default 'normal', run_at timestamptz default null, ordering_key text default null,
    max_attempts integer default null, deadline timestamptz default null, traceparent text default null,
    version integer default 1
) returns table (job_id bigint, outcome text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    -- Before the look-up below takes its snapshot (see enqueue_many). An assignment, because a call by `perform` is
    -- a statement of its own, and what one job costs is the number of its statements.
    v_xid xid8 := pg_current_xact_id();
    v_rank smallint := backhaul.priority_rank(enqueue.priority);
    v_now timestamptz := clock_timestamp();
    k record;
    v_problem text;
    v_id bigint;
    v_first bigint;
    v_hash bytea;
    v_stored bytea;
    v_direct boolean;
begin
    -- The kind, and where its jobs of this tenant and priority go. The lane's range and its order leave the planner
    -- only the unique index (see 0003_promote.sql).
    select x.payload_bytes_max, x.max_attempts, x.deadline, x.idempotency_window, x.ordering_paths, l.id as lane, c.awake
    into k
    from backhaul.kinds x
    left join lateral (select n.id from backhaul.lanes n
                       where n.kind = x.kind and n.version = x.version and n.tenant between enqueue.tenant and enqueue.tenant
                       order by n.tenant limit 1) l on true
    left join backhaul.cursors c on c.lane = l.id and c.priority = v_rank
    where x.kind = enqueue.kind and x.version = enqueue.version;
    v_problem := backhaul.job_problem(k.payload_bytes_max, enqueue.kind, enqueue.payload, enqueue.tenant,
        enqueue.idempotency_key, enqueue.priority, enqueue.run_at, enqueue.ordering_key, enqueue.max_attempts,
        enqueue.deadline, enqueue.traceparent, enqueue.version);
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
    -- In a stricter isolation the cursor may have fallen asleep since the snapshot: promotion places the job.
    v_direct := coalesce(k.awake, false) and (enqueue.run_at is null or enqueue.run_at <= v_now)
        and current_setting('transaction_isolation') = 'read committed';
    insert into backhaul.jobs (id, lane, priority, version, max_attempts, seq, due_at, deadline_at, kind, tenant,
                               ordering_key, idempotency_key, traceparent, payload)
    values (v_id, k.lane, v_rank, enqueue.version, coalesce(enqueue.max_attempts, k.max_attempts),
            case when v_direct then v_id end,
            case when not v_direct then coalesce(enqueue.run_at, clock_timestamp()) end,
            coalesce(enqueue.deadline, greatest(enqueue.run_at, clock_timestamp()) + k.deadline),
            enqueue.kind, enqueue.tenant, coalesce(enqueue.ordering_key, backhaul.derived_key(
                enqueue.kind, string_to_array(k.ordering_paths[1], '.'), string_to_array(k.ordering_paths[2], '.'), enqueue.payload)),
            enqueue.idempotency_key, enqueue.traceparent, enqueue.payload);
    job_id := v_id;
    outcome := 'inserted';
    return next;
end $$;
