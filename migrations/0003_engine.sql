-- The protocol: promote, claim, settle, rescue, sweep, seal. Functions rather than statements sent by workers, because
-- each needs several statements with fresh snapshots in one round trip. Planner switches are set per function: the
-- statistics of queue tables are always stale, and every access below has its index.

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
            where j.tenant = v_tenant and j.due_at <= clock_timestamp() and j.rescues < 2
            order by j.due_at limit 10 for update skip locked) d;
        v_ids := v_ids || v_found;
    end loop;
    return v_ids;
end $$;
--
-- The planner decides once a session, perhaps while the table is nearly empty, when every index costs the same to read
-- whole; a minute later it holds a million rows. So no statement leaves it a choice:
--   * by id: a lateral subquery with `offset 0`, `= any (array)` or a scalar subquery, never a plain join, which may be
--     turned round;
--   * by anything else: an `order by` that only the right index can serve, on a column that is compared by a range
--     (`between x and x`), because an equality makes its order worthless.
-- Disabled scans have costs that make Postgres compile the plan, which takes a second, so `jit` is off as well.
-- Otherwise a claim of 200 from 200,000 took 70 to 128 ms instead of 0.6. tests/it/plans.rs holds them to it.
-- As there is nothing to choose, `plan_cache_mode` says to plan once: with the arguments in sight Postgres finds plans
-- for them a little cheaper, and plans each statement anew for ever, which took three quarters of a small claim's time.
-- For the same reason these functions are plpgsql: one in SQL is planned anew by every statement that calls it.

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
begin
    perform pg_current_xact_id();
    select array_agg(d.id) into v_ids from (
        select j.id from backhaul.jobs j
        where j.due_at > p_after and j.due_at <= clock_timestamp() and j.rescues < 2
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
    select coalesce(min(c.pass), 0) into v_start from backhaul.cursors c where c.awake;
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

-- Tokens a limit may save up: what accrues in about half a second, for workers wake when there are some (next_due).
-- One, and a part of the next: with room for just one, all that accrues until it is taken would be lost.
create function backhaul.bucket_burst(p_per_minute integer) returns double precision
language sql immutable as $$
    select 1 + p_per_minute * 0.009
$$;

-- Tokens a second that a limit earns: what is left of a minute's after the burst, over a minute and a second, because
-- a request may leave a second after its token was granted. No 60 seconds see more requests than the limit.
create function backhaul.bucket_rate(p_per_minute integer) returns double precision
language sql immutable as $$
    select greatest(p_per_minute - (1 + p_per_minute * 0.009), 0.45) / 61.0
$$;

-- Takes up to `want` tokens of a bucket at once, so that its row is not hot. `wait_ms` is set where none was granted.
-- A probe goes through where others wait for its outcome: it may need several requests to get to its end. With
-- `p_waits` false a bucket that somebody else has locked grants nothing, so that a claim which holds one bucket never
-- waits for a second: two claims that meet the same two in other orders would deadlock.
create function backhaul.bucket_take(p_tenant text, p_name text, p_want integer, p_backfill boolean,
                                     p_probe boolean default false, p_waits boolean default true,
                                     out granted integer, out wait_ms bigint, out why text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    b backhaul.buckets;
    v_burst double precision;
    v_rate double precision;
    v_now timestamptz;
begin
    if p_waits then
        select x.* into b from backhaul.buckets x where x.tenant = p_tenant and x.name = p_name for update;
    else
        select x.* into b from backhaul.buckets x where x.tenant = p_tenant and x.name = p_name for update skip locked;
        if b.name is null and exists (select from backhaul.buckets x where x.tenant = p_tenant and x.name = p_name) then
            granted := 0;
            wait_ms := 1;
            why := 'limit';
            return;
        end if;
    end if;
    v_now := clock_timestamp();
    if b.blocked_until > v_now and not (b.probing and p_probe) then
        granted := 0;
        wait_ms := ceil(extract(epoch from b.blocked_until - v_now) * 1000);
        why := coalesce(b.blocked_why, 'blocked');
        return;
    end if;
    if b.probing and not p_probe then
        -- The next probe is ten seconds away for everybody: at most six a minute.
        update backhaul.buckets x set blocked_until = v_now + interval '10 seconds'
        where x.tenant = p_tenant and x.name = p_name;
        p_want := 1;
    end if;
    if b.per_minute is null then
        granted := p_want;
        return;
    end if;
    v_burst := backhaul.bucket_burst(b.per_minute);
    v_rate := backhaul.bucket_rate(b.per_minute);
    b.tokens := least(v_burst, b.tokens + v_rate * greatest(0, extract(epoch from v_now - b.refilled_at)));
    b.backfill_tokens := least(v_burst, b.backfill_tokens
        + b.backfill_share * v_rate * greatest(0, extract(epoch from v_now - b.refilled_at)));
    granted := greatest(0, least(p_want, floor(b.tokens)::integer));
    if p_backfill and b.backfill_share < 1 then
        granted := greatest(0, least(granted, floor(b.backfill_tokens)::integer));
        b.backfill_tokens := b.backfill_tokens - granted;
    end if;
    if granted = 0 then
        wait_ms := greatest(1, ceil((1 - b.tokens) / v_rate * 1000),
            case when p_backfill and b.backfill_share < 1
                then ceil((1 - b.backfill_tokens) / (b.backfill_share * v_rate) * 1000) end);
        why := 'limit';
    end if;
    update backhaul.buckets x set tokens = b.tokens - granted, backfill_tokens = b.backfill_tokens, refilled_at = v_now
    where x.tenant = p_tenant and x.name = p_name;
end $$;

-- States a limit; the tokens start empty but for one, so that a restart is no burst.
create function backhaul.bucket_limit(p_tenant text, p_name text, p_per_minute integer) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.buckets as x (tenant, name, per_minute, tokens) values (p_tenant, p_name, p_per_minute, 1)
    on conflict (tenant, name) do update set per_minute = excluded.per_minute
    where x.per_minute is distinct from excluded.per_minute
$$;

-- Reserves ordering keys for the given candidates (in claim order) and returns those that may run; the others are
-- parked as blocked, or put back as due where the holder is just ending. Never waits on a row of jobs. A job that is
-- older than the holder (it became visible late, or comes back) is noted with the key, and has the next turn.
create function backhaul.reserve_keys(p_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_run bigint[];
    v_park bigint[];
    v_sure bigint[];
begin
    -- A free key goes to the oldest job of the key that could run: usually the candidate itself, else the older job
    -- that waits in another lane or priority. In key order, so that two claims cannot deadlock.
    insert into backhaul.key_holders (tenant, ordering_key, job_id)
    select distinct on (j.tenant, j.ordering_key) j.tenant, j.ordering_key,
        coalesce((select o.id from backhaul.jobs o
                  where o.tenant = j.tenant and o.ordering_key between j.ordering_key and j.ordering_key and o.id < j.id
                    and (o.due_at is null or o.due_at <= clock_timestamp())
                  order by o.ordering_key, o.id limit 1), j.id)
    from unnest(p_ids) with ordinality as u (id, n)
    cross join lateral (select x.id, x.tenant, x.ordering_key from backhaul.jobs x where x.id = u.id offset 0) j
    where (select true from backhaul.key_holders h
           where h.tenant = j.tenant and h.ordering_key = j.ordering_key) is null
    order by j.tenant, j.ordering_key, u.n
    on conflict do nothing;
    select array_agg(j.id) filter (where h.job_id = j.id),
           array_agg(j.id) filter (where h.job_id is distinct from j.id)
    into v_run, v_park
    from unnest(p_ids) as u (id)
    cross join lateral (select x.id, x.tenant, x.ordering_key from backhaul.jobs x where x.id = u.id offset 0) j
    left join lateral (select x.job_id from backhaul.key_holders x
                       where x.tenant = j.tenant and x.ordering_key = j.ordering_key offset 0) h on true;
    if v_park is null then
        return v_run;
    end if;
    -- Parking is sure to be noticed only while the holder cannot end: hold its row for this transaction. Whoever is
    -- just ending holds the lock itself; then the job comes back in a moment instead of waiting for the sweep.
    with guarded as (
        select h.tenant, h.ordering_key, h.job_id from backhaul.key_holders h
        where (h.tenant, h.ordering_key) in (select j.tenant, j.ordering_key from backhaul.jobs j where j.id = any (v_park))
        for no key update skip locked
    ), parked as (
        select j.id, j.tenant, j.ordering_key, g.job_id from backhaul.jobs j
        join guarded g on g.tenant = j.tenant and g.ordering_key = j.ordering_key
        where j.id = any (v_park)
    ), late as (
        update backhaul.key_holders h set late = least(h.late, l.id)
        from (select p.tenant, p.ordering_key, min(p.id) as id from parked p where p.id < p.job_id group by 1, 2) l
        where h.tenant = l.tenant and h.ordering_key = l.ordering_key
    )
    select array_agg(p.id) into v_sure from parked p;
    update backhaul.jobs j set seq = null,
        due_at = case when j.id = any (coalesce(v_sure, '{}')) then null else clock_timestamp() + interval '5 ms' end
    where j.id = any (v_park);
    return v_run;
end $$;

-- Jobs of the kind in workers' hands: of one tenant, or of all with '*'.
create function backhaul.held(p_kind text, p_tenant text) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
begin
    return (
    select count(*)::integer from backhaul.lanes n
    join backhaul.leases l on l.lane = n.id
    cross join lateral unnest(l.seqs) as u (seq)
    cross join lateral (select from backhaul.jobs x
                        where x.lane = l.lane and x.priority = l.priority and x.seq between u.seq and u.seq
                        order by x.seq limit 1) j
    where n.kind = p_kind and (p_tenant = '*' or n.tenant = p_tenant));
end $$;

-- How many more jobs of the kind may start. The caps' rows stay locked until the claim commits, so that two claims
-- cannot both use the last place; whoever finds them locked leaves the kind to the other for this time.
create function backhaul.cap_room(p_kind text, p_tenant text) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    p record;
    v_caps integer;
    v_seen integer := 0;
    v_room integer := 2147483647;
begin
    select count(*) into v_caps from backhaul.caps x where x.kind = p_kind and x.tenant in (p_tenant, '*');
    for p in select x.tenant, x.running_max from backhaul.caps x
             where x.kind = p_kind and x.tenant in (p_tenant, '*') order by x.tenant for update skip locked loop
        v_seen := v_seen + 1;
        v_room := least(v_room, p.running_max - backhaul.held(p_kind, p.tenant));
    end loop;
    return case when v_seen = v_caps then v_room else 0 end;
end $$;

-- Gives a new place to the jobs that were committed behind the cursor, whose row the caller has locked: live rows with
-- floor < seq <= position that no lease holds. `seen` is more than `moved` while somebody else holds one's row.
create function backhaul.adopt(k backhaul.cursors, out seen integer, out moved integer)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
begin
    with strays as materialized (
        select j.id, j.seq from backhaul.jobs j
        where j.lane = k.lane and j.priority = k.priority and j.seq > k.floor and j.seq <= k.position
          and j.seq not in (select unnest(l.seqs) from backhaul.leases l
                            where l.lane = k.lane and l.priority = k.priority)
        order by j.seq
    ), free as materialized (
        select j.id from backhaul.jobs j
        where j.id = any (array(select s.id from strays s))
          and j.seq = (select s.seq from strays s where s.id = j.id)
        order by j.seq for update skip locked
    ), placed as (
        update backhaul.jobs j set seq = nextval('backhaul.job_seq')
        where j.id = any (array(select f.id from free f)) returning j.id
    )
    select (select count(*) from strays), (select count(*) from placed) into seen, moved;
end $$;

-- Moves cursors and leases what lies behind them. Commits without waiting for the disk, unless it reserves an ordering
-- key: a lost claim is only claimed again. Lanes are served by effective priority (one level up for every thirty seconds without service), then by
-- virtual time; lanes of one level share by weight, and a claim spreads over at most sixteen of them. It goes down to
-- the next level only where this one had no more: a worker that still has room claims again at once.
-- What cannot be served now (paused, at its cap, bucket closed or empty) is no candidate, or sixteen such lanes would
-- hide all others. A lane lags behind the one served most by at most 512 jobs of virtual time: who was held back, or
-- was alone for a while, neither takes everything afterwards nor pays for it.
-- Where producers commit side by side, a claim passes over jobs whose commits are still under way. A worker that keeps
-- up with them says `p_strays`, and finds those a moment later here; the sweep finds them in any case.
create function backhaul.claim(p_worker uuid, p_kinds text[], p_want integer, p_due_after timestamptz,
                               p_strays boolean default false)
returns table (lease bigint, id bigint, kind text, version smallint, tenant text, payload text, attempt smallint,
               max_attempts smallint, rescues smallint, replays smallint, deadline_at timestamptz,
               enqueued_at timestamptz, enqueued_by text, ordering_key text, traceparent text, prepaid text,
               fresh boolean, probe boolean, backfill boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    c record;
    k backhaul.cursors;
    v_full text[];
    v_left integer := p_want;
    v_fair integer;
    v_share integer;
    v_rank integer;
    v_cut boolean := false;
    v_paced boolean := false;
    v_position bigint;
    v_to bigint;
    v_ids bigint[];
    v_seqs bigint[];
    v_page bigint[];
    v_places bigint[];
    v_met integer;
    v_parked integer;
    v_keyed bigint[];
    v_run bigint[];
    v_last bigint;
    v_lease bigint;
    v_leases bigint[] := '{}';
    v_jobs bigint[] := '{}';
    v_paid text[] := '{}';
    v_durable text := current_setting('synchronous_commit');
begin
    perform set_config('synchronous_commit', 'off', true);
    if not exists (select from backhaul.workers w where w.id = p_worker) then
        raise exception 'worker_unknown: this worker was given up for dead'
            using errcode = 'BH030', hint = 'register again under a new id';
    end if;
    if (select true from backhaul.jobs j
        where j.due_at > p_due_after and j.due_at <= clock_timestamp() and j.rescues < 2
        order by j.due_at limit 1) then
        perform backhaul.promote(greatest(p_want * 2, 200), p_due_after);
    end if;
    if p_strays then
        for k in select x.* from backhaul.cursors x
                 where x.awake and x.floor < x.position and x.served_at > clock_timestamp() - interval '1 second'
                 order by x.served_at desc limit 16 for update skip locked loop
            perform backhaul.adopt(k);
        end loop;
    end if;
    select array_agg(p.kind || '/' || p.tenant) into v_full
    from backhaul.caps p where backhaul.held(p.kind, p.tenant) >= p.running_max;
    for c in
        select r.*, sum(r.weight) over (partition by r.rank order by r.fair, r.served_at, r.lane, r.priority
                                        rows between current row and unbounded following) as weights
        from (
            select x.lane, x.priority, x.served_at, l.weight, l.kind, l.tenant, k.pacing[1] as bucket,
                   greatest(x.pass, max(x.pass) over () - 512) as fair,
                   b.per_minute is not null or coalesce(b.probing, false) as limited,
                   exists (select from backhaul.caps p where p.kind = l.kind and p.tenant in (l.tenant, '*')) as capped,
                   x.priority - least(x.priority,
                       floor(extract(epoch from clock_timestamp() - x.served_at) / 30))::integer as rank
            from backhaul.cursors x
            cross join lateral (select n.* from backhaul.lanes n
                                where n.id between x.lane and x.lane order by n.id limit 1) l
            join backhaul.kinds k on k.kind = l.kind and k.version = l.version
            left join backhaul.buckets b on b.tenant = l.tenant and b.name = k.pacing[1]
            cross join lateral (select from backhaul.jobs j
                                where j.lane = x.lane and j.priority = x.priority and j.seq > x.position
                                order by j.seq limit 1) work
            where x.awake and (l.kind || '@' || l.version) = any (p_kinds)
              and not exists (select from backhaul.buckets o
                              where o.tenant = l.tenant and o.name = any (k.pacing) and o.blocked_until > clock_timestamp())
              and not exists (select from backhaul.pauses p where p.kind in (l.kind, '*') and p.tenant in (l.tenant, '*'))
              and (b.per_minute is null
                   or b.tokens + backhaul.bucket_rate(b.per_minute)
                       * extract(epoch from clock_timestamp() - b.refilled_at)::double precision >= 1)
              and (b.per_minute is null or x.priority < 4 or b.backfill_share >= 1
                   or b.backfill_tokens + b.backfill_share * backhaul.bucket_rate(b.per_minute)
                       * extract(epoch from clock_timestamp() - b.refilled_at)::double precision >= 1)
              and (v_full is null or ((l.kind || '/' || l.tenant) <> all (v_full) and (l.kind || '/*') <> all (v_full)))
            order by rank, fair, x.served_at, x.lane, x.priority
            limit 16) r
        order by r.rank, r.fair, r.served_at, r.lane, r.priority
    loop
        exit when v_cut and c.rank > v_rank;
        v_rank := c.rank;
        select x.position into v_position from backhaul.cursors x
        where x.lane = c.lane and x.priority = c.priority for update skip locked;
        continue when not found;
        v_fair := ceil(v_left::double precision * c.weight / c.weights);
        v_share := v_fair;
        if c.capped then
            v_share := least(v_share, backhaul.cap_room(c.kind, c.tenant));
            continue when v_share <= 0;
        end if;
        if c.limited then
            select t.granted into v_share
            from backhaul.bucket_take(c.tenant, c.bucket, v_share, c.priority = 4, false, not v_paced) t;
            v_paced := true;
            continue when v_share = 0;
        end if;
        v_ids := '{}';
        v_seqs := '{}';
        v_last := null;
        v_parked := 0;
        -- Goes on behind jobs that had to be parked, or thousands of one key would hold up the rest of their lane.
        loop
            select array_agg(j.id order by j.seq), array_agg(j.seq order by j.seq), max(j.seq),
                   array_agg(j.id order by j.seq) filter (where j.ordering_key is not null)
            into v_page, v_places, v_to, v_keyed
            from (select n.id, n.seq, n.ordering_key from backhaul.jobs n
                  where n.lane = c.lane and n.priority = c.priority and n.seq > v_position
                  order by n.seq limit v_share - cardinality(v_ids)) j;
            exit when v_page is null;
            v_position := v_to;
            v_last := v_to;
            v_met := cardinality(v_page);
            if v_keyed is not null then
                -- A crash of the server must not forget who holds a key: the next of the key would start while the
                -- first still runs.
                perform set_config('synchronous_commit', v_durable, true);
                v_run := backhaul.reserve_keys(v_keyed);
                select coalesce(array_agg(u.id order by u.seq), '{}'), coalesce(array_agg(u.seq order by u.seq), '{}')
                into v_page, v_places
                from unnest(v_page, v_places) as u (id, seq)
                where u.id <> all (v_keyed) or u.id = any (coalesce(v_run, '{}'));
            end if;
            v_ids := v_ids || v_page;
            v_seqs := v_seqs || v_places;
            exit when v_met = cardinality(v_page);
            v_parked := v_parked + v_met - cardinality(v_page);
            exit when v_parked >= 1000;
        end loop;
        -- It had as much as its share and may have more: lower levels wait.
        v_cut := v_cut or cardinality(v_ids) = v_fair;
        if v_parked >= 1000 then
            v_cut := true;
            perform pg_notify('backhaul', '');
        end if;
        if c.limited and cardinality(v_ids) < v_share then
            update backhaul.buckets b set tokens = b.tokens + v_share - cardinality(v_ids),
                backfill_tokens = b.backfill_tokens
                    + case when c.priority = 4 and b.backfill_share < 1 then v_share - cardinality(v_ids) else 0 end
            where b.tenant = c.tenant and b.name = c.bucket;
        end if;
        continue when v_last is null;
        update backhaul.cursors x set position = v_last, served_at = clock_timestamp(),
            pass = greatest(x.pass, c.fair) + cardinality(v_ids)::double precision / c.weight
        where x.lane = c.lane and x.priority = c.priority;
        continue when v_ids = '{}';
        insert into backhaul.leases (worker, lane, priority, seqs)
        values (p_worker, c.lane, c.priority, v_seqs) returning leases.id into v_lease;
        v_leases := v_leases || array_fill(v_lease, array[cardinality(v_ids)]);
        v_jobs := v_jobs || v_ids;
        v_paid := v_paid || array_fill(case when c.limited then c.bucket end, array[cardinality(v_ids)]);
        v_left := v_left - cardinality(v_ids);
        exit when v_left <= 0;
    end loop;
    return query
    select u.lease, j.id, j.kind, j.version, j.tenant, j.payload::text, j.attempt, j.max_attempts, j.rescues, j.replays,
           j.deadline_at, j.enqueued_at, j.enqueued_by, j.ordering_key, j.traceparent, u.paid,
           -- Still at its first place: nobody has run it, so it has no steps.
           j.seq = j.id,
           exists (select from backhaul.buckets b where b.tenant = j.tenant and b.name = u.paid and b.probing),
           j.priority = 4
    from unnest(v_leases, v_jobs, v_paid) with ordinality as u (lease, id, paid, n)
    cross join lateral (select x.* from backhaul.jobs x where x.id = u.id offset 0) j
    order by u.n;
end $$;

-- The due job that must run alone, of the given kinds and not held back. A worker asks before it lets go of all else,
-- so one that it could not run anyway would stop it for nothing.
create function backhaul.waits_alone(p_kinds text[]) returns bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
begin
    return (
    select j.id from backhaul.jobs j
    join backhaul.kinds k on k.kind = j.kind and k.version = j.version
    where j.due_at <= clock_timestamp() and j.rescues >= 2 and j.lane is not null
      and (j.kind || '@' || j.version) = any (p_kinds)
      and not exists (select from backhaul.pauses p where p.kind in (j.kind, '*') and p.tenant in (j.tenant, '*'))
      and not exists (select from backhaul.buckets b
                      where b.tenant = j.tenant and b.name = any (k.pacing) and b.blocked_until > clock_timestamp())
      and not exists (select from backhaul.caps p where p.kind = j.kind and p.tenant in (j.tenant, '*')
                        and backhaul.held(p.kind, p.tenant) >= p.running_max)
    order by j.due_at limit 1);
end $$;

-- One job whose worker died twice with it, for a worker that holds nothing else. Its negative place lies before every
-- cursor, so that no claim and no sweep meets it while the lease lives.
create function backhaul.claim_alone(p_worker uuid, p_kinds text[])
returns table (lease bigint, id bigint, kind text, version smallint, tenant text, payload text, attempt smallint,
               max_attempts smallint, rescues smallint, replays smallint, deadline_at timestamptz,
               enqueued_at timestamptz, enqueued_by text, ordering_key text, traceparent text, prepaid text,
               fresh boolean, probe boolean, backfill boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_job record;
    v_lease bigint;
begin
    perform set_config('synchronous_commit', 'off', true);
    if not exists (select from backhaul.workers w where w.id = p_worker) then
        raise exception 'worker_unknown: this worker was given up for dead' using errcode = 'BH030';
    end if;
    select j.id, j.lane, j.priority, j.kind, j.tenant into v_job from backhaul.jobs j
    where j.id = backhaul.waits_alone(p_kinds) and j.due_at is not null for update skip locked;
    if v_job.id is null or backhaul.cap_room(v_job.kind, v_job.tenant) <= 0 then
        return;
    end if;
    update backhaul.jobs j set seq = -j.id, due_at = null where j.id = v_job.id;
    insert into backhaul.leases (worker, lane, priority, seqs)
    values (p_worker, v_job.lane, v_job.priority, array[-v_job.id]) returning leases.id into v_lease;
    return query
    select v_lease, j.id, j.kind, j.version, j.tenant, j.payload::text, j.attempt, j.max_attempts, j.rescues, j.replays,
           j.deadline_at, j.enqueued_at, j.enqueued_by, j.ordering_key, j.traceparent, null::text,
           false, false, j.priority = 4
    from backhaul.jobs j where j.id = v_job.id;
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
            select greatest(b.blocked_until, b.refilled_at + make_interval(secs =>
                (greatest(1, backhaul.bucket_rate(b.per_minute) * 0.05) - b.tokens) / backhaul.bucket_rate(b.per_minute)))
            from backhaul.cursors x
            join backhaul.lanes l on l.id = x.lane
            join backhaul.kinds k on k.kind = l.kind and k.version = l.version
            join backhaul.buckets b on b.tenant = l.tenant and b.name = k.pacing[1]
            where x.awake) r (ready_at)
        where r.ready_at > clock_timestamp()
    ) u (d));
end $$;

-- Passes the keys that the given jobs held to the oldest job that could run, whether it waits for the key or has not
-- been looked at yet, or frees them. The look starts behind the job that held the key, because a held snapshot keeps
-- the index entries of all finished ones before it; what is older and was met since is noted with the key.
create function backhaul.hand_over(p_ids bigint[]) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    h record;
    v_next bigint;
    v_parked boolean;
    v_soon timestamptz;
begin
    -- Waits for claims that are parking a job behind one of these keys; the look for the next one below therefore
    -- sees what they parked.
    for h in
        select x.tenant, x.ordering_key, x.job_id, x.late from backhaul.key_holders x
        where x.job_id = any (p_ids) order by x.tenant, x.ordering_key for update
    loop
        loop
            v_next := null;
            -- A claim that met one of the key's jobs while this had the key's row put it back for 5 ms (reserve_keys):
            -- it could run all the same, and a later one must not go first.
            v_soon := clock_timestamp() + interval '5 ms';
            if h.late is not null then
                select j.id, j.seq is null and j.due_at is null into v_next, v_parked from backhaul.jobs j
                where j.tenant = h.tenant and j.ordering_key between h.ordering_key and h.ordering_key
                  and j.id >= h.late and j.id < h.job_id and (j.due_at is null or j.due_at <= v_soon)
                order by j.ordering_key, j.id limit 1;
            end if;
            if v_next is null then
                select j.id, j.seq is null and j.due_at is null into v_next, v_parked from backhaul.jobs j
                where j.tenant = h.tenant and j.ordering_key between h.ordering_key and h.ordering_key
                  and j.id > h.job_id and (j.due_at is null or j.due_at <= v_soon)
                order by j.ordering_key, j.id limit 1;
            end if;
            if v_next is null then
                select j.id, j.seq is null and j.due_at is null into v_next, v_parked from backhaul.jobs j
                where j.tenant = h.tenant and j.ordering_key between h.ordering_key and h.ordering_key
                  and j.id < h.job_id and (j.due_at is null or j.due_at <= v_soon)
                order by j.ordering_key, j.id limit 1;
            end if;
            exit when v_next is null or not v_parked;
            -- Due now and not placed: promotion wakes its cursor where that has gone to sleep meanwhile. Only parked
            -- jobs are written, so that no claim, which may hold other keys, ever waits for this.
            update backhaul.jobs j set due_at = clock_timestamp()
            where j.id = v_next and j.seq is null and j.due_at is null;
            exit when found;
            -- Cancelled or moved to another time since the look: look again.
        end loop;
        if v_next is null then
            delete from backhaul.key_holders x where x.tenant = h.tenant and x.ordering_key = h.ordering_key;
        else
            update backhaul.key_holders x set job_id = v_next, stopping_until = null, late = null
            where x.tenant = h.tenant and x.ordering_key = h.ordering_key;
            if exists (select from backhaul.sleepers) then
                perform pg_notify('backhaul', '');
            end if;
        end if;
    end loop;
end $$;

-- Groups failures that a person would call the same: numbers, ids and quoted words of the message do not matter.
create function backhaul.fingerprint(p_kind text, p_error jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select left(encode(sha256(convert_to(concat_ws('|', p_kind, p_error ->> 'code', p_error ->> 'http_status',
        p_error ->> 'step',
        regexp_replace(regexp_replace(left(p_error ->> 'message', 500), '("[^"]*"|''[^'']*'')', '?', 'g'),
                       '[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+', '#', 'gi')), 'UTF8')), 'hex'), 16)
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
-- may be in other hands while the lease lives on with its neighbours.
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
                errors = case when o.error is null then j.errors
                              else (case when jsonb_array_length(j.errors) >= 20 then j.errors - 1 else coalesce(j.errors, '[]') end)
                                   || o.error end
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
        insert into backhaul.buckets as x (tenant, name, blocked_until, blocked_why, probing)
        select c.tenant, c.bucket, max(clock_timestamp() + make_interval(secs => c.for_ms / 1000.0)), min(c.why),
            bool_or(coalesce(c.probing, false))
        from jsonb_to_recordset(p_closed) as c (tenant text, bucket text, for_ms bigint, why text, probing boolean)
        where c.for_ms > 0
        group by c.tenant, c.bucket order by 1, 2
        on conflict (tenant, name) do update set
            blocked_until = greatest(x.blocked_until, excluded.blocked_until), blocked_why = excluded.blocked_why,
            probing = x.probing or excluded.probing;
        update backhaul.buckets x set probing = false, blocked_until = null, blocked_why = null
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
begin
    perform pg_current_xact_id();
    perform from backhaul.leases l where l.id = p_lease and l.worker = p_worker for share;
    if not found then
        return false;
    end if;
    perform from backhaul.jobs j where j.id = p_job for no key update;
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
