-- How jobs fared: shares and latencies over a window, from the event log. Nothing is counted elsewhere, so nothing can
-- disagree with the audit trail.

-- The first event of a window. Ids and times grow together, so a handful of looks finds it; whoever asks leaves out
-- what is older after all. At most two million events back: on a log that grows faster the window is shorter, and
-- `counted_from` below says so.
create function backhaul.first_event_since(p_since timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    v_high bigint := coalesce((select e.id from backhaul.events e order by e.id desc limit 1), 0);
    v_low bigint := greatest(0, v_high - 2000000);
    v_middle bigint;
    v_at timestamptz;
begin
    while v_low < v_high loop
        v_middle := (v_low + v_high) / 2;
        select e.occurred_at into v_at from backhaul.events e where e.id > v_middle order by e.id limit 1;
        -- A minute of slack for clocks and for transactions that took their number early.
        if v_at >= p_since - interval '1 minute' then
            v_high := v_middle;
        else
            v_low := v_middle + 1;
        end if;
    end loop;
    return v_low;
end $$;

-- One row for each kind and tenant that something happened to; a share of nothing is null and never 0. Every attempt
-- counts with its time, also those that failed. A worker's crash has no time.
create function backhaul.outcomes(since timestamptz default null, of_kind text default null, of_tenant text default null)
returns table (kind text, tenant text, completed bigint, dead bigint, success_ratio numeric, attempts bigint,
               failures bigint, latency_avg_ms numeric, latency_p50_ms bigint, latency_p95_ms bigint,
               latency_p99_ms bigint, failure_latency_avg_ms numeric, counted_from timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_since timestamptz := coalesce(outcomes.since, clock_timestamp() - interval '1 hour');
    v_first bigint := backhaul.first_event_since(v_since);
begin
    return query
    select o.kind, o.tenant,
        count(*) filter (where o.name = 'completed'),
        count(*) filter (where o.name = 'dead'),
        round(100.0 * count(*) filter (where o.name = 'completed')
            / nullif(count(*) filter (where o.name in ('completed', 'dead')), 0), 2),
        count(*),
        count(*) filter (where o.name <> 'completed'),
        round(avg(o.ms), 1),
        percentile_disc(0.5) within group (order by o.ms),
        percentile_disc(0.95) within group (order by o.ms),
        percentile_disc(0.99) within group (order by o.ms),
        round(avg(o.ms) filter (where o.name <> 'completed'), 1),
        min(o.occurred_at)
    from (select e.kind, e.tenant, e.occurred_at, substring(e.type from 18) as name,
                 (convert_from(e.data, 'UTF8')::jsonb ->> 'latency_ms')::bigint as ms
          from backhaul.events e
          where e.id >= v_first and e.occurred_at >= v_since
            and e.type in ('dev.backhaul.job.completed', 'dev.backhaul.job.dead', 'dev.backhaul.job.retried',
                           'dev.backhaul.job.throttled')
            and (of_kind is null or e.kind = of_kind) and (of_tenant is null or e.tenant = of_tenant)) o
    group by o.kind, o.tenant order by o.kind, o.tenant;
end $$;
comment on function backhaul.outcomes is 'Success ratio in percent and latencies by kind and tenant since a time, an hour ago by default.';

-- What became of a batch: the jobs whose idempotency keys begin with its name and a slash, as `backhaul backfill` makes
-- them. A finished job is gone; its key is remembered for the kind's window and its end stands in the log, so that it
-- counts as `done`, or as `ended` where it was cancelled, discarded or erased. Reads all keys and all unfinished jobs.
create function backhaul.batch_states(batch text, of_kind text default null, of_tenant text default null)
returns table (state text, jobs bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    with waiting as materialized (
        select s.id, s.state from backhaul.job_states s
        where starts_with(s.idempotency_key, batch_states.batch || '/')
          and (of_kind is null or s.kind = of_kind) and (of_tenant is null or s.tenant = of_tenant)
    ), over as materialized (
        select k.job_id as id from backhaul.idempotency_keys k
        where starts_with(k.key, batch_states.batch || '/')
          and (of_kind is null or split_part(k.scope, '/', 1) = of_kind)
          and (of_tenant is null or split_part(k.scope, '/', 2) = of_tenant)
          and not exists (select from waiting w where w.id = k.job_id)
    ), completed as materialized (
        select e.job_id as id from backhaul.events e
        where e.type = 'dev.backhaul.job.completed'
          and e.job_id between (select min(o.id) from over o) and (select max(o.id) from over o)
    )
    select x.state, count(*) from (
        select w.state from waiting w
        union all
        select case when exists (select from completed c where c.id = o.id) then 'done' else 'ended' end from over o
    ) x group by x.state order by x.state
$$;
comment on function backhaul.batch_states is 'Jobs of a batch by state, with those that are over while their keys are remembered.';

-- A schema's default privileges do not take back what every new function grants to everybody.
revoke all on all functions in schema backhaul from public;
grant execute on function backhaul.outcomes, backhaul.batch_states to backhaul_operator, backhaul_reader;
