-- Claims: cursors move, and leases say what lies behind them.

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

-- Gives a new place to the jobs that were committed behind the cursor: live rows with floor < seq <= position that no
-- lease holds. The cursor may be one that was read a while ago: what lay behind it then is leased or gone now, or a
-- straggler, and nobody can lease that at its place. `seen` is more than `moved` while somebody else holds one's row.
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
    v_now timestamptz := clock_timestamp();
    v_known boolean;
    v_due boolean;
begin
    -- One statement instead of four: a claim that brings one job takes as long as its statements are many.
    select set_config('synchronous_commit', 'off', true) is not null
               and exists (select from backhaul.workers w where w.id = p_worker),
           (select true from backhaul.jobs j
            where j.due_at > p_due_after and j.due_at <= v_now and j.rescues < 2
            order by j.due_at limit 1),
           (select array_agg(p.kind || '/' || p.tenant)
            from backhaul.caps p where backhaul.held(p.kind, p.tenant) >= p.running_max)
    into v_known, v_due, v_full;
    if not v_known then
        raise exception 'worker_unknown: this worker was given up for dead'
            using errcode = 'BH030', hint = 'register again under a new id';
    end if;
    if v_due then
        perform backhaul.promote(greatest(p_want * 2, 200), p_due_after);
    end if;
    if p_strays then
        for k in select x.* from backhaul.cursors x
                 where x.awake and x.floor < x.position and x.served_at > clock_timestamp() - interval '1 second'
                   -- While a long transaction holds the floor back, a look is for the sweep, which holds up no claim.
                   and x.position - x.floor < 10000
                 order by x.served_at desc limit 16 for update skip locked loop
            perform backhaul.adopt(k);
        end loop;
    end if;
    for c in
        select r.*, sum(r.weight) over (partition by r.rank order by r.fair, r.served_at, r.lane, r.priority
                                        rows between current row and unbounded following) as weights
        from (
            select x.lane, x.priority, x.served_at, l.weight, l.kind, l.tenant, k.pacing[1] as bucket,
                   b.within,
                   greatest(x.pass, max(x.pass) over () - 512) as fair,
                   b.per_minute is not null or coalesce(b.probing, false) as limited,
                   exists (select from backhaul.caps p where p.kind = l.kind and p.tenant in (l.tenant, '*')) as capped,
                   x.priority - least(x.priority,
                       floor(extract(epoch from clock_timestamp() - x.served_at) / 30))::integer as rank
            from (select a.* from backhaul.cursors a where a.awake order by a.priority, a.lane offset 0) x
            cross join lateral (select n.* from backhaul.lanes n
                                where n.id between x.lane and x.lane order by n.id limit 1) l
            join backhaul.kinds k on k.kind = l.kind and k.version = l.version
            left join backhaul.buckets b on b.tenant = l.tenant and b.name = k.pacing[1]
            cross join lateral (select from backhaul.jobs j
                                where j.lane = x.lane and j.priority = x.priority and j.seq > x.position
                                order by j.seq limit 1) work
            where (l.kind || '@' || l.version) = any (p_kinds)
              and not exists (select from backhaul.buckets o
                              where o.tenant = l.tenant and o.name = any (k.pacing || b.within)
                                and o.blocked_until > clock_timestamp())
              and not exists (select from backhaul.pauses p where p.kind in (l.kind, '*') and p.tenant in (l.tenant, '*'))
              and backhaul.bucket_has(b, x.priority >= 4)
              and not exists (select from backhaul.buckets w where w.tenant = l.tenant and w.name = any (b.within)
                                and not backhaul.bucket_has(w, x.priority >= 4))
              and (v_full is null or ((l.kind || '/' || l.tenant) <> all (v_full) and (l.kind || '/*') <> all (v_full)))
            order by rank, fair, x.served_at, x.lane, x.priority
            limit 16) r
        order by r.rank, r.fair, r.served_at, r.lane, r.priority
    loop
        exit when v_cut and c.rank > v_rank;
        v_rank := c.rank;
        select x.position into v_position from backhaul.cursors x
        where x.lane = c.lane and x.priority = c.priority for update skip locked;
        if not found then
            -- Another claim or the sweep is there for a moment, and leaves work behind perhaps: lower levels wait.
            v_cut := true;
            continue;
        end if;
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
            where b.tenant = c.tenant and b.name = any (c.bucket || c.within);
        end if;
        continue when v_last is null;
        with moved as (
            update backhaul.cursors x set position = v_last, served_at = clock_timestamp(),
                pass = greatest(x.pass, c.fair) + cardinality(v_ids)::double precision / c.weight
            where x.lane = c.lane and x.priority = c.priority
        )
        insert into backhaul.leases (worker, lane, priority, seqs)
        select p_worker, c.lane, c.priority, v_seqs where v_ids <> '{}' returning leases.id into v_lease;
        continue when v_ids = '{}';
        v_leases := v_leases || array_fill(v_lease, array[cardinality(v_ids)]);
        v_jobs := v_jobs || v_ids;
        v_paid := v_paid || array_fill(case when c.limited then c.bucket end, array[cardinality(v_ids)]);
        v_left := v_left - cardinality(v_ids);
        exit when v_left <= 0;
    end loop;
    if v_paced then
        -- What has expired goes no further than its worker: its tokens are for those behind it.
        update backhaul.buckets b set tokens = b.tokens + e.n,
            backfill_tokens = b.backfill_tokens + case when b.backfill_share < 1 then e.backfill else 0 end
        from (select j.tenant, p.name, count(*) as n, count(*) filter (where j.priority = 4) as backfill
              from unnest(v_jobs, v_paid) as u (id, paid)
              cross join lateral (select x.* from backhaul.jobs x where x.id = u.id offset 0) j
              cross join lateral (select u.paid union
                                  select unnest(x.within) from backhaul.buckets x
                                  where x.tenant = j.tenant and x.name = u.paid) p (name)
              where u.paid is not null and j.deadline_at <= v_now group by j.tenant, p.name) e
        where b.tenant = e.tenant and b.name = e.name;
    end if;
    return query
    select u.lease, j.id, j.kind, j.version, j.tenant, j.payload::text, j.attempt, j.max_attempts::smallint, j.rescues, j.replays,
           j.deadline_at::timestamptz, j.enqueued_at::timestamptz, j.enqueued_by, j.ordering_key, j.traceparent, u.paid,
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
declare
    v_now timestamptz := clock_timestamp();
begin
    return (
    select j.id from backhaul.jobs j
    join backhaul.kinds k on k.kind = j.kind and k.version = j.version
    where j.due_at <= v_now and j.rescues >= 2 and j.lane is not null
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
    if not exists (select from backhaul.workers w where w.id = p_worker) then
        raise exception 'worker_unknown: this worker was given up for dead' using errcode = 'BH030';
    end if;
    select j.id, j.lane, j.priority, j.kind, j.tenant, j.ordering_key into v_job from backhaul.jobs j
    where j.id = backhaul.waits_alone(p_kinds) and j.due_at is not null for update skip locked;
    if v_job.id is null or backhaul.cap_room(v_job.kind, v_job.tenant) <= 0 then
        return;
    end if;
    if v_job.ordering_key is null then
        perform set_config('synchronous_commit', 'off', true);
    elsif backhaul.reserve_keys(array[v_job.id]) is null then
        -- Another job got the key while this one was put off; it waits behind that one now.
        return;
    end if;
    update backhaul.jobs j set seq = -j.id, due_at = null where j.id = v_job.id;
    insert into backhaul.leases (worker, lane, priority, seqs)
    values (p_worker, v_job.lane, v_job.priority, array[-v_job.id]) returning leases.id into v_lease;
    return query
    select v_lease, j.id, j.kind, j.version, j.tenant, j.payload::text, j.attempt, j.max_attempts::smallint, j.rescues, j.replays,
           j.deadline_at::timestamptz, j.enqueued_at::timestamptz, j.enqueued_by, j.ordering_key, j.traceparent, null::text,
           false, false, j.priority = 4
    from backhaul.jobs j where j.id = v_job.id;
end $$;
