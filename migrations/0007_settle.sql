-- Settles and steps: the only writers of outcomes, fenced by the lease.

-- Groups failures that a person would call the same: numbers, ids and quoted words of the message do not matter.
create function backhaul.fingerprint(p_kind text, p_error jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select left(encode(sha256(convert_to(concat_ws('|', p_kind, p_error ->> 'code', p_error ->> 'http_status',
        p_error ->> 'step',
        regexp_replace(regexp_replace(left(p_error ->> 'message', 500), '("[^"]*"|''[^'']*'')', '?', 'g'),
                       '[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+', '#', 'gi')), 'UTF8')), 'hex'), 16)
$$;

-- A job's failures with one more: the first, and the latest nineteen. Those that cost no try may come thousands of times,
-- so a series of the same is the latest of them, with how many they were.
create function backhaul.with_error(p_errors jsonb, p_error jsonb) returns jsonb
language sql immutable as $$
    select case
        when p_error is null then p_errors
        when p_error ->> 'class' in ('throttled', 'snoozed') and p_errors -> -1 ->> 'class' = p_error ->> 'class'
             and p_errors -> -1 ->> 'code' = p_error ->> 'code'
            then (p_errors - -1)
                || (p_error || jsonb_build_object('times', coalesce((p_errors -> -1 ->> 'times')::bigint, 1) + 1))
        when jsonb_array_length(p_errors) >= 20 then (p_errors - 1) || p_error
        else coalesce(p_errors, '[]') || p_error
    end
$$;

-- Moves jobs to the dead letters. `p_dead` is [{"id": 1, "reason": "code", "error": {...}}]; returns the ids moved.
create function backhaul.bury(p_dead jsonb) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_moved bigint[];
begin
    with d as (
        select x.id, x.reason, x.error from jsonb_to_recordset(p_dead) as x (id bigint, reason text, error jsonb)
    ), gone as (
        delete from backhaul.jobs j using d
        where j.id = d.id and j.id = any (array(select (x ->> 'id')::bigint from jsonb_array_elements(p_dead) x))
        returning j.*, d.reason, d.error
    ), kept as (
        insert into backhaul.dead_letters (id, kind, version, tenant, priority, attempt, max_attempts, rescues, replays,
            ordering_key, idempotency_key, enqueued_at, enqueued_by, deadline_at, traceparent, payload, errors, reason,
            error, conflict, fingerprint)
        select g.id, g.kind, g.version, g.tenant, g.priority, g.attempt, g.max_attempts, g.rescues, g.replays,
            g.ordering_key, g.idempotency_key, g.enqueued_at, g.enqueued_by, g.deadline_at, g.traceparent, g.payload,
            coalesce(g.errors, '[]') || (g.error - 'conflict'), g.reason, g.error - 'conflict', g.error -> 'conflict',
            backhaul.fingerprint(g.kind, g.error)
        from gone g returning id
    )
    select coalesce(array_agg(k.id), '{}') into v_moved from kept k;
    return v_moved;
end $$;

-- Everything that finished since the last settle, in one transaction and one round trip. Outcomes whose lease is gone
-- change nothing, and neither do outcomes of jobs that were cancelled meanwhile: their events are not written either.
-- A job must still be where its lease has it: a settle whose reply was lost is sent again, and by then a retried job
-- may be in other hands while the lease lives on with its neighbours. A job may be named once.
--   done      ids of finished jobs, with the lease of each
--   others    [{"id", "lease", "do": "retry" | "later" | "dead" | "lost", "delay_ms", "attempt", "reason", "error"}]
--   events    parallel arrays; an event is written when its job's outcome was
--   ended     leases with nothing left in the worker's hands
--   keyed     whether any of the jobs has an ordering key;  stepped: ids that end and have steps
--   closed    [{"tenant", "bucket", "for_ms", "why", "probing"}]: buckets to close for the fleet; `for_ms` 0 and
--             `probing` false: the upstream answers again
-- Returns the ids whose outcome was refused.
create function backhaul.settle(
    p_worker uuid, p_done bigint[], p_done_leases bigint[], p_others jsonb, p_leases bigint[], p_ended bigint[],
    p_keyed boolean, p_stepped bigint[],
    p_ev_job bigint[], p_ev_id uuid[], p_ev_at timestamptz[], p_ev_type text[], p_ev_tenant text[], p_ev_kind text[],
    p_ev_subject text[], p_ev_trace text[], p_ev_data bytea[], p_memories jsonb, p_closed jsonb
) returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_held bigint[];
    v_done bigint[] := p_done;
    v_others jsonb := p_others;
    v_ok bigint[];
    v_more bigint[];
    v_asked integer := cardinality(p_done) + coalesce(jsonb_array_length(p_others), 0);
    v_refused bigint[] := '{}';
begin
    perform pg_current_xact_id();
    select coalesce(array_agg(h.id), '{}') into v_held from (
        select l.id from backhaul.leases l where l.id = any (p_leases) and l.worker = p_worker order by l.id for update
    ) h;
    if cardinality(v_held) <> cardinality(p_leases) then
        select coalesce(array_agg(u.id), '{}') into v_done
        from unnest(p_done, p_done_leases) as u (id, lease) where u.lease = any (v_held);
        select jsonb_agg(o) into v_others from jsonb_array_elements(p_others) o
        where (o ->> 'lease')::bigint = any (v_held);
    end if;
    with gone as (
        delete from backhaul.jobs j where j.id = any (v_done) returning j.id
    )
    select coalesce(array_agg(g.id), '{}') into v_ok from gone g;
    if v_others is not null then
        with o as (
            select x.* from jsonb_to_recordset(v_others)
                as x (id bigint, lease bigint, "do" text, delay_ms bigint, attempt smallint, error jsonb)
            where x."do" not in ('dead', 'lost')
        ), moved as (
            update backhaul.jobs j set
                seq = null,
                due_at = clock_timestamp() + make_interval(secs => coalesce(o.delay_ms, 0) / 1000.0),
                attempt = coalesce(o.attempt, j.attempt),
                errors = backhaul.with_error(j.errors, o.error)
            from o
            where j.id = o.id and j.id = any (array(select (x ->> 'id')::bigint from jsonb_array_elements(v_others) x))
              and j.seq = any ((select l.seqs from backhaul.leases l where l.id = o.lease)::bigint[])
            returning j.id
        )
        select coalesce(array_agg(m.id), '{}') into v_more from moved m;
        v_ok := v_ok || v_more;
        if jsonb_path_exists(v_others, '$[*] ? (@.do == "dead")') then
            v_more := backhaul.bury((
                select jsonb_agg(o) from jsonb_array_elements(v_others) o
                where o ->> 'do' = 'dead'
                  and (select j.seq from backhaul.jobs j where j.id = (o ->> 'id')::bigint)
                      = any ((select l.seqs from backhaul.leases l where l.id = (o ->> 'lease')::bigint)::bigint[])));
            v_ok := v_ok || v_more;
        end if;
    end if;
    if cardinality(v_ok) = v_asked then
        insert into backhaul.events (job_id, event_id, occurred_at, type, tenant, kind, subject, traceparent, data)
        select * from unnest(p_ev_job, p_ev_id, p_ev_at, p_ev_type, p_ev_tenant, p_ev_kind, p_ev_subject, p_ev_trace, p_ev_data);
    else
        insert into backhaul.events (job_id, event_id, occurred_at, type, tenant, kind, subject, traceparent, data)
        select u.job_id, u.event_id, u.at, u.type, u.tenant, u.kind, u.subject, u.trace, u.data
        from unnest(p_ev_job, p_ev_id, p_ev_at, p_ev_type, p_ev_tenant, p_ev_kind, p_ev_subject, p_ev_trace, p_ev_data)
            with ordinality as u (job_id, event_id, at, type, tenant, kind, subject, trace, data, n)
        where u.job_id = any (v_ok) order by u.n;
        select coalesce(array_agg(a.id), '{}') into v_refused from (
            select unnest(p_done) as id
            union all select (o ->> 'id')::bigint from jsonb_array_elements(p_others) o) a
        where a.id <> all (v_ok);
    end if;
    if p_memories is not null then
        perform backhaul.remember(p_memories, v_ok);
    end if;
    if p_keyed then
        -- Also the keys of jobs that were cancelled meanwhile: what held them runs no more.
        perform backhaul.hand_over((select array_agg(u.id) from (
            select unnest(v_done) union all select (o ->> 'id')::bigint from jsonb_array_elements(v_others) o) u (id)
            where (select true from backhaul.jobs j where j.id = u.id) is null));
    end if;
    if cardinality(p_stepped) > 0 then
        delete from backhaul.steps s where s.job_id = any (p_stepped) and s.job_id = any (v_ok);
    end if;
    if p_closed is not null then
        -- In the order in which takers lock them, whether they close or open.
        perform from backhaul.buckets x
        where (x.tenant, x.name) in (select c.tenant, c.bucket
                                     from jsonb_to_recordset(p_closed) as c (tenant text, bucket text))
        order by x.tenant, x.name for update;
        insert into backhaul.buckets as x (tenant, name, blocked_until, blocked_why, probing)
        select c.tenant, c.bucket, max(clock_timestamp() + make_interval(secs => c.for_ms / 1000.0)), min(c.why),
            bool_or(coalesce(c.probing, false))
        from jsonb_to_recordset(p_closed) as c (tenant text, bucket text, for_ms bigint, why text, probing boolean)
        where c.for_ms > 0
        group by c.tenant, c.bucket order by 1, 2
        on conflict (tenant, name) do update set
            -- The reason belongs to the time, so that an upstream that is up again is still left alone for as long as
            -- it asked for.
            blocked_until = greatest(x.blocked_until, excluded.blocked_until),
            blocked_why = case when x.blocked_until > excluded.blocked_until then x.blocked_why else excluded.blocked_why end,
            probing = x.probing or excluded.probing;
        update backhaul.buckets x set probing = false,
            blocked_until = case when x.blocked_why like 'upstream down:%' then null else x.blocked_until end,
            blocked_why = case when x.blocked_why like 'upstream down:%' then null else x.blocked_why end
        from jsonb_to_recordset(p_closed) as c (tenant text, bucket text, for_ms bigint)
        where c.for_ms = 0 and x.tenant = c.tenant and x.name = c.bucket and x.probing;
    end if;
    -- The worker believes that nothing of them is left. It may be wrong: an outcome was refused, or a server that lost
    -- its last commits (a crash without synchronous commit, a standby that took over) has a job back that was settled.
    -- Without its lease such a job would lie behind its cursor's floor, where nobody looks; with it, the next
    -- heartbeats give it back. A lease's places ascend.
    delete from backhaul.leases l where l.id = any (p_ended) and l.worker = p_worker
        and (select true from backhaul.jobs j
             where j.lane = l.lane and j.priority = l.priority
               and j.seq between l.seqs[1] and l.seqs[cardinality(l.seqs)]
               and array_position(l.seqs, j.seq) is not null
             order by j.seq limit 1) is null;
    return v_refused;
end $$;

-- `p_memories` is [{"job", "tenant", "kind", "resource", "value"}]; written for the jobs in `p_jobs`.
create function backhaul.remember(p_memories jsonb, p_jobs bigint[]) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.memories (tenant, kind, resource, value)
    select distinct on (m.tenant, m.kind, m.resource) m.tenant, m.kind, m.resource, m.value
    from jsonb_array_elements(p_memories) with ordinality as e (o, n)
    cross join lateral jsonb_to_record(e.o) as m (job bigint, tenant text, kind text, resource text, value jsonb)
    where m.job = any (p_jobs)
    order by m.tenant, m.kind, m.resource, e.n desc
    on conflict (tenant, kind, resource) do update set value = excluded.value, updated_at = clock_timestamp()
$$;

-- One step with its audit events and memories, fenced by the lease and by the job's existence.
create function backhaul.put_step(
    p_worker uuid, p_lease bigint, p_job bigint, p_name text, p_state text, p_output jsonb,
    p_ev_id uuid[], p_ev_at timestamptz[], p_ev_type text[], p_ev_tenant text[], p_ev_kind text[], p_ev_subject text[],
    p_ev_trace text[], p_ev_data bytea[], p_memories jsonb
) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_lease backhaul.leases;
begin
    perform pg_current_xact_id();
    select l.* into v_lease from backhaul.leases l where l.id = p_lease and l.worker = p_worker for share;
    if not found then
        return false;
    end if;
    -- A lease outlives a job of it that was settled before its neighbours, and may have been claimed again since.
    perform from backhaul.jobs j
    where j.id = p_job and j.seq = any (v_lease.seqs) for no key update;
    if not found then
        return false;
    end if;
    insert into backhaul.steps (job_id, name, state, output) values (p_job, p_name, p_state, p_output)
    on conflict (job_id, name) do update set state = excluded.state, output = excluded.output, at = excluded.at;
    if p_state = 'done' then
        -- A finished step starts the count of failures anew: max_attempts bounds each step.
        update backhaul.jobs j set attempt = 0 where j.id = p_job and j.attempt > 0;
    end if;
    insert into backhaul.events (job_id, event_id, occurred_at, type, tenant, kind, subject, traceparent, data)
    select p_job, u.* from unnest(p_ev_id, p_ev_at, p_ev_type, p_ev_tenant, p_ev_kind, p_ev_subject, p_ev_trace, p_ev_data)
        as u (a, b, c, d, e, f, g, h);
    if p_memories is not null then
        perform backhaul.remember(p_memories, array[p_job]);
    end if;
    return true;
end $$;
