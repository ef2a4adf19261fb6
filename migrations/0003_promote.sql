-- Promotion: due jobs get their place. What holds for the whole protocol (promote, claim, settle; 0003 to 0009):
--
-- Functions rather than statements sent by workers, because each needs several statements with fresh snapshots in one
-- round trip. Planner switches are set per function: the statistics of queue tables are always stale, and every access
-- below has its index.
--
-- The planner decides once a session, perhaps while the table is nearly empty, when every index costs the same to read
-- whole; a minute later it holds a million rows. So no statement leaves it a choice:
--   * by id: a lateral subquery with `offset 0`, `= any (array)` or a scalar subquery, never a plain join, which may be
--     turned round;
--   * by anything else: an `order by` that only the right index can serve, on a column that is compared by a range
--     (`between x and x`), because an equality makes its order worthless;
--   * the time is a variable: an index cannot be searched for a function that changes from row to row, and every job
--     that is due some day would be looked at.
-- Disabled scans have costs that make Postgres compile the plan, which takes a second, so `jit` is off as well.
-- Otherwise a claim of 200 from 200,000 took 70 to 128 ms instead of 0.6. tests/it/plans.rs holds them to it.
-- As there is nothing to choose, `plan_cache_mode` says to plan once: with the arguments in sight Postgres finds plans
-- for them a little cheaper, and plans each statement anew for ever, which took a third of a small claim's time.
-- For the same reason these functions are plpgsql: one in SQL is planned anew by every statement that calls it.

-- The oldest due jobs of up to a hundred tenants, ten of each, from a random tenant on. For when more is due than one
-- promotion takes: the single job of one tenant must not wait until another's hundred thousand have their places.
create function backhaul.due_by_tenant() returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    v_tenant text;
    v_start text;
    v_wrapped boolean := false;
    v_found bigint[];
    v_ids bigint[] := '{}';
    v_now timestamptz := clock_timestamp();
begin
    select n.tenant into v_start from backhaul.lanes n
    where n.id >= floor(random() * (select max(m.id) from backhaul.lanes m)) order by n.id limit 1;
    v_tenant := coalesce(v_start, '');
    for i in 1 .. 100 loop
        select j.tenant into v_tenant from backhaul.jobs j
        where j.tenant > v_tenant and j.due_at is not null and j.rescues < 2 order by j.tenant limit 1;
        if v_tenant is null then
            exit when v_wrapped;
            v_wrapped := true;
            v_tenant := '';
            continue;
        end if;
        exit when v_wrapped and v_tenant > v_start;
        select array_agg(d.id) into v_found from (
            select j.id from backhaul.jobs j
            where j.tenant = v_tenant and j.due_at <= v_now and j.rescues < 2
            order by j.due_at limit 10 for update skip locked) d;
        v_ids := v_ids || v_found;
    end loop;
    return v_ids;
end $$;

-- Gives due jobs their place. Lanes and cursors come into being here, in a short transaction of ours.
-- `after` is a hint: look only at jobs due later than that, so that index entries of jobs promoted long ago, which a
-- held snapshot keeps alive, are not walked again and again.
create function backhaul.promote(p_limit integer, p_after timestamptz) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_ids bigint[];
    v_seqs bigint[];
    v_start double precision;
    v_now timestamptz := clock_timestamp();
begin
    perform pg_current_xact_id();
    select array_agg(d.id) into v_ids from (
        select j.id from backhaul.jobs j
        where j.due_at > p_after and j.due_at <= v_now and j.rescues < 2
        order by j.due_at limit p_limit for update skip locked
    ) d;
    if v_ids is null then
        return 0;
    end if;
    if cardinality(v_ids) >= p_limit then
        -- A tenant's oldest come first in both, so its jobs keep their order.
        select array_agg(d.id order by d.n) into v_ids from (
            select u.id, min(u.n) as n from unnest(v_ids || backhaul.due_by_tenant()) with ordinality as u (id, n)
            group by u.id) d;
    end if;
    insert into backhaul.lanes (kind, version, tenant)
    select distinct j.kind, j.version, j.tenant from backhaul.jobs j
    where j.id = any (v_ids) and j.lane is null
      and not exists (select from backhaul.lanes l where l.kind = j.kind and l.version = j.version and l.tenant = j.tenant)
    order by 1, 2, 3
    on conflict do nothing;
    -- The fair share of a lane that wakes starts at the others' present, so that rest earns no arrears.
    select coalesce(min(c.pass), 0) into v_start
    from (select a.pass from backhaul.cursors a where a.awake order by a.priority, a.lane offset 0) c;
    insert into backhaul.cursors as x (lane, priority, pass, served_at)
    select distinct l.id, j.priority, v_start, now()
    from (select distinct o.kind, o.version, o.tenant, o.priority from backhaul.jobs o where o.id = any (v_ids)) j
    cross join lateral (select n.id from backhaul.lanes n
                        where n.kind = j.kind and n.version = j.version and n.tenant between j.tenant and j.tenant
                        order by n.tenant limit 1) l
    order by 1, 2
    on conflict (lane, priority) do update set
        awake = true, settled = false, cooling = null,
        pass = greatest(x.pass, excluded.pass), served_at = clock_timestamp()
        where not x.awake;
    -- Places in the order in which they are due; taken before, because an update has no order.
    select array_agg(u.id order by u.id), array_agg(u.seq order by u.id) into v_ids, v_seqs
    from (select d.id, nextval('backhaul.job_seq') as seq
          from (select x.id from unnest(v_ids) with ordinality as x (id, n) order by x.n) d) u;
    update backhaul.jobs j set due_at = null, seq = v_seqs[array_position(v_ids, j.id)],
        lane = coalesce(j.lane, (select l.id from backhaul.lanes l
                                 where l.kind = j.kind and l.version = j.version and l.tenant between j.tenant and j.tenant
                                 order by l.tenant limit 1))
    where j.id = any (v_ids);
    return cardinality(v_ids);
end $$;

-- When the next scheduled job is due, or a limit with jobs before it has tokens again or opens: how long an idle worker
-- may sleep. Of a large limit it waits for a few tokens, a twentieth of a second's, because a claim for each is too many.
-- A limit that has them already held nobody back, and wakes nobody.
create function backhaul.next_due() returns timestamptz
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
begin
    return (
    select min(d) from (
        select min(j.due_at) from backhaul.jobs j where j.due_at is not null and j.rescues < 2
        union all
        select min(j.due_at) from backhaul.jobs j where j.due_at is not null and j.rescues >= 2
        union all
        select min(r.ready_at) from (
            select (select max(greatest(b.blocked_until, b.refilled_at + make_interval(secs =>
                        (greatest(1, backhaul.bucket_rate(b.per_minute) * 0.05) - b.tokens)
                        / backhaul.bucket_rate(b.per_minute))))
                    from backhaul.buckets b where b.tenant = l.tenant and b.name = any (k.pacing[1] || o.within))
            from (select a.lane from backhaul.cursors a where a.awake order by a.priority, a.lane offset 0) x
            join backhaul.lanes l on l.id = x.lane
            join backhaul.kinds k on k.kind = l.kind and k.version = l.version
            join backhaul.buckets o on o.tenant = l.tenant and o.name = k.pacing[1]) r (ready_at)
        where r.ready_at > clock_timestamp()
    ) u (d));
end $$;
