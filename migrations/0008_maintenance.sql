-- What keeps the promises over time. Every worker runs these; whoever locks the task's row first does it.

-- True for one caller each `p_every`; the row stays locked until its transaction ends, so nobody does it twice at once.
-- What notes how long it took rests twenty times as long, at most a minute. With zero it is anybody's turn at any time.
create function backhaul.my_turn(p_task text, p_every interval) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from backhaul.maintenance m
    where m.task = p_task
      and (p_every = interval '0'
           or m.ran_at <= clock_timestamp() - greatest(p_every, least(m.took * 20, interval '1 minute')))
    for update skip locked;
    if not found then
        return false;
    end if;
    update backhaul.maintenance m set ran_at = clock_timestamp() where m.task = p_task;
    return true;
end $$;

-- Whether every transaction older than the horizon has ended. One that lies in the future was taken in another
-- cluster (a dump restored): nobody of that cluster is left.
create function backhaul.ended(p_horizon xid8, p_now pg_snapshot) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select p_horizon <= pg_snapshot_xmin(p_now) or p_horizon > pg_snapshot_xmax(p_now)
$$;

create function backhaul.wake() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from backhaul.sleepers) then
        perform pg_notify('backhaul', '');
    end if;
end $$;

-- Finds stragglers: a place is taken at insert but seen at commit, so a slow producer's job can appear behind a cursor.
-- Live rows with floor < seq <= position that no lease holds get a new place. Also puts cursors to sleep, and proves
-- afterwards that nobody could still place a job behind them. Returns how many jobs were adopted. A write transaction
-- that is long open makes it look at all that was claimed since: cursors are locked only after all looks, because claims
-- pass over those that are, the looks of one sweep begin at a random lane and end after five seconds, and the time they
-- took says when the next one begins.
--
-- The horizon of a sample is this transaction's own id, taken after the sequence was read: whoever took an earlier
-- number had its id before it did, so that id is the smaller one. The end of a snapshot will not do: it is the latest
-- *ended* transaction's successor, and the producer that holds the newest id of all may lie beyond it.
create function backhaul.sweep(p_every interval, p_rest interval) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    k backhaul.cursors;
    c record;
    v_started timestamptz := clock_timestamp();
    v_from integer;
    v_looked backhaul.cursors[] := '{}';
    v_clean boolean[] := '{}';
    v_seq bigint;
    v_horizon xid8;
    v_now pg_snapshot;
    v_floor bigint;
    v_seen integer;
    v_found integer;
    v_more boolean;
    v_woke boolean := false;
    v_total integer := 0;
    -- A caller whose transaction wrote something before has an id that is too old to be a horizon.
    v_sample boolean := pg_current_xact_id_if_assigned() is null;
begin
    perform set_config('synchronous_commit', 'off', true);
    select case when s.is_called then s.last_value else 0 end into v_seq from backhaul.job_seq s;
    if not backhaul.my_turn('sweep', p_every) then
        return 0;
    end if;
    select pg_current_snapshot() into v_now;
    select coalesce(max(m.seq), 0) into v_floor from backhaul.marks m where backhaul.ended(m.horizon, v_now);
    delete from backhaul.marks m where m.seq < v_floor;
    -- While somebody's transaction stays open none of them can be told from the others. Each that is left out only makes
    -- a floor move later, so they get the sparser the older they are.
    if (select count(*) from backhaul.marks) > 1000 then
        delete from backhaul.marks m where random() < 0.1;
    end if;
    if v_sample then
        v_horizon := pg_current_xact_id();
        -- While no number is taken the first sample of it stands, and an idle system writes none.
        insert into backhaul.marks (horizon, seq) select v_horizon, v_seq
        where not exists (select from backhaul.marks m where m.seq = v_seq);
    end if;
    v_from := (select floor(random() * max(n.id)) from backhaul.lanes n);
    for k in
        select x.* from backhaul.cursors x
        where x.awake or not x.settled or x.floor < x.position order by x.lane < v_from, x.lane, x.priority
    loop
        exit when clock_timestamp() > v_started + interval '5 seconds';
        v_seen := 0;
        v_found := 0;
        if k.floor < k.position then
            select a.seen, a.moved into v_seen, v_found from backhaul.adopt(k) a;
            v_total := v_total + v_found;
        end if;
        v_looked := v_looked || k;
        -- Somebody holds a straggler's row at this moment: the floor waits for it.
        v_clean := v_clean || (v_seen = v_found);
    end loop;
    for c in
        select u.lane, u.priority, case when u.clean then least(v_floor, u.position) end as floor
        from unnest(v_looked, v_clean)
            as u (lane, priority, position, floor, awake, cooling, settled, pass, served_at, clean)
    loop
        select x.* into k from backhaul.cursors x
        where x.lane = c.lane and x.priority = c.priority for update skip locked;
        continue when not found;
        v_more := (select true from backhaul.jobs j
                   where j.lane = k.lane and j.priority = k.priority and j.seq > k.position
                   order by j.seq limit 1) is not null;
        v_woke := v_woke or (v_more and not k.awake);
        -- Whoever saw the cursor awake had its transaction id by then; `cooling` is the id of a transaction after the
        -- one that put it to sleep, so once all older ones have ended, what they placed can be seen. What can be seen
        -- before that proof wakes it at once: a long transaction elsewhere may put the proof off for hours.
        update backhaul.cursors x set
            floor = coalesce(c.floor, k.floor),
            awake = case when v_more then true
                         when k.served_at < clock_timestamp() - p_rest then false
                         else k.awake end,
            cooling = case when k.awake or v_more then null
                           when k.cooling is null and not k.settled then v_horizon
                           else k.cooling end,
            settled = case when k.awake or v_more then false
                           else k.settled or coalesce(backhaul.ended(k.cooling, v_now), false) end
        where x.lane = k.lane and x.priority = k.priority
          and (k.floor < k.position or k.awake or not k.settled);
    end loop;
    update backhaul.maintenance m set took = clock_timestamp() - v_started where m.task = 'sweep';
    if v_total > 0 or v_woke then
        perform backhaul.wake();
    end if;
    return v_total;
end $$;

-- The live jobs in the given leases.
create function backhaul.jobs_of(p_leases bigint[]) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
begin
    return (
    select coalesce(array_agg(j.id), '{}')
    from backhaul.leases l
    cross join lateral unnest(l.seqs) as u (seq)
    cross join lateral (select x.id from backhaul.jobs x
                        where x.lane = l.lane and x.priority = l.priority and x.seq between u.seq and u.seq
                        order by x.seq limit 1) j
    where l.id = any (p_leases));
end $$;

-- Takes the leases of workers that have missed their heartbeats. A rescue costs no attempt, but a job whose worker died
-- twice runs alone from then on, and at its third crash it is dead. Where nobody has looked for so long that the database
-- must have been away, or all workers were, no missed heartbeat says anything: all have their time once more.
create function backhaul.rescue(p_timeout interval, p_every interval) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_dead uuid[];
    v_leases bigint[];
    v_jobs bigint[];
    v_crashed bigint[];
    v_looked timestamptz := (select m.ran_at from backhaul.maintenance m where m.task = 'rescue');
    g record;
begin
    if not backhaul.my_turn('rescue', p_every) then
        return 0;
    end if;
    if isfinite(v_looked) and v_looked < clock_timestamp() - p_timeout * 0.75 then
        update backhaul.workers w set heartbeat_at = clock_timestamp();
        return 0;
    end if;
    perform pg_current_xact_id();
    select array_agg(w.id) into v_dead from (
        select x.id from backhaul.workers x where x.heartbeat_at < clock_timestamp() - p_timeout for update skip locked) w;
    select array_agg(d.id) into v_leases from (
        select l.id from backhaul.leases l
        where l.worker = any (coalesce(v_dead, '{}'))
           or (l.claimed_at < clock_timestamp() - p_timeout
               and not exists (select from backhaul.workers w where w.id = l.worker))
        order by l.id for update skip locked) d;
    if v_leases is not null then
        select array_agg(j.id), array_agg(j.id) filter (where j.rescues >= 2) into v_jobs, v_crashed
        from unnest(backhaul.jobs_of(v_leases)) as i (id)
        cross join lateral (select x.id, x.rescues from backhaul.jobs x where x.id = i.id offset 0) j;
        if v_crashed is not null then
            for g in select j.id, j.kind, j.tenant, j.traceparent from backhaul.jobs j where j.id = any (v_crashed) loop
                perform backhaul.append_event('dev.backhaul.job.dead', g.id, g.tenant, g.kind, g.traceparent,
                    jsonb_build_object('reason', 'crashed_worker'));
            end loop;
            perform backhaul.bury((select jsonb_agg(jsonb_build_object('id', i, 'reason', 'crashed_worker', 'error',
                jsonb_build_object('code', 'crashed_worker', 'class', 'permanent',
                    'message', 'three workers died while they ran this job',
                    'at', to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))))
                from unnest(v_crashed) i));
            perform backhaul.hand_over(v_crashed);
        end if;
        update backhaul.jobs j set seq = null, due_at = clock_timestamp(), rescues = j.rescues + 1
        where j.id = any (v_jobs) and j.id <> all (coalesce(v_crashed, '{}'));
        delete from backhaul.leases l where l.id = any (v_leases);
    end if;
    update backhaul.sinks s set owner = null, owned_until = least(s.owned_until, clock_timestamp())
    where s.owner = any (coalesce(v_dead, '{}'));
    delete from backhaul.workers w where w.id = any (coalesce(v_dead, '{}'));
    delete from backhaul.sleepers s where not exists (select from backhaul.workers w where w.id = s.worker);
    if v_jobs is not null then
        perform backhaul.wake();
    end if;
    return coalesce(cardinality(v_jobs), 0);
end $$;

-- Whether a job waits that must run alone, and whether this worker is to let go of everything else for it. One at a time
-- is chosen in the whole fleet, or a single such job would have all of them finish what they hold and take nothing new;
-- whoever holds nothing anyway may take it without being chosen. A choice that is not renewed for `p_timeout` ends.
create function backhaul.stand_alone(p_worker uuid, p_kinds text[], p_timeout interval,
                                     out waits boolean, out chosen boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    waits := backhaul.waits_alone(p_kinds) is not null;
    if waits then
        update backhaul.maintenance m set worker = p_worker, ran_at = clock_timestamp()
        where m.task = 'alone'
          and (m.worker is null or m.worker = p_worker or m.ran_at < clock_timestamp() - p_timeout);
        chosen := found;
    else
        update backhaul.maintenance m set worker = null, ran_at = clock_timestamp()
        where m.task = 'alone' and m.worker = p_worker;
        chosen := false;
    end if;
end $$;

-- Frees jobs that wait behind a key nobody holds: their blocker vanished in a race that hand_over could not see.
create function backhaul.unblock(p_every interval) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_found integer;
begin
    if not backhaul.my_turn('unblock', p_every) then
        return 0;
    end if;
    delete from backhaul.key_holders x using (
        select h.tenant, h.ordering_key from backhaul.key_holders h
        where not exists (select from backhaul.jobs j where j.id = h.job_id)
          and (h.stopping_until is null or h.stopping_until <= clock_timestamp())
          and not exists (select from backhaul.jobs j where j.tenant = h.tenant and j.ordering_key = h.ordering_key
                          and j.seq is null and j.due_at is null)
        order by h.tenant, h.ordering_key for update skip locked) h
    where x.tenant = h.tenant and x.ordering_key = h.ordering_key;
    perform backhaul.hand_over((select array_agg(h.job_id order by h.tenant, h.ordering_key) from backhaul.key_holders h
        where not exists (select from backhaul.jobs j where j.id = h.job_id)
          and (h.stopping_until is null or h.stopping_until <= clock_timestamp())));
    with free as (
        -- Also one that holds its key itself: nobody would end for it to go on.
        select distinct on (j.tenant, j.ordering_key) j.id from backhaul.jobs j
        where j.seq is null and j.due_at is null
          and not exists (select from backhaul.key_holders h
                          where h.tenant = j.tenant and h.ordering_key = j.ordering_key and h.job_id <> j.id)
        order by j.tenant, j.ordering_key, j.id
    )
    update backhaul.jobs j set due_at = clock_timestamp() from free f
    where j.id = f.id and j.seq is null and j.due_at is null;
    get diagnostics v_found = row_count;
    return v_found;
end $$;

create function backhaul.expire_keys(p_every interval, p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_found integer;
    v_now timestamptz := clock_timestamp();
begin
    if not backhaul.my_turn('keys', p_every) then
        return 0;
    end if;
    delete from backhaul.idempotency_keys x using (
        select y.scope, y.key from backhaul.idempotency_keys y
        where y.expires_at <= v_now order by y.expires_at limit p_limit for update skip locked) d
    where x.scope = d.scope and x.key = d.key;
    get diagnostics v_found = row_count;
    return v_found;
end $$;

create function backhaul.register_worker(p_worker uuid, p_host text, p_pid integer, p_build text, p_kinds text[],
                                         p_concurrency integer, p_heartbeat interval default '2 seconds')
returns timestamptz
language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.workers (id, host, pid, build, kinds, concurrency, heartbeat)
    values (p_worker, p_host, p_pid, p_build, p_kinds, p_concurrency, p_heartbeat)
    returning clock_timestamp()
$$;

-- A worker that missed three heartbeats counts as gone for whoever asks who is there, long before its jobs are taken
-- from it: its row stays for as long as nobody lives who would rescue them. Five seconds at least, because a busy
-- database answers late.
create view backhaul.worker_states as
select w.id, w.host, w.pid, w.build, w.kinds, w.concurrency, w.in_flight, w.stopping, w.started_at, w.heartbeat_at,
    w.heartbeat_at < clock_timestamp() - greatest(w.heartbeat * 3, interval '5 seconds') as silent
from backhaul.workers w;
comment on view backhaul.worker_states is 'Every worker that has not left, and whether it has missed its heartbeats.';

-- One heartbeat for everything in the worker's hands. `gone` names jobs that were cancelled; `alive` is false when the
-- worker was given up for dead. The jobs of leases that the worker does not know go back: the reply to its claim was
-- lost with a connection, or a settle was refused. Forty-five seconds are longer than a worker waits for a claim.
create function backhaul.heartbeat(p_worker uuid, p_jobs bigint[], p_leases bigint[], p_stopping boolean,
                                   out alive boolean, out now timestamptz, out gone bigint[], out workers integer)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_unknown bigint[];
begin
    perform set_config('synchronous_commit', 'off', true);
    update backhaul.workers w set heartbeat_at = clock_timestamp(), in_flight = cardinality(p_jobs), stopping = p_stopping
    where w.id = p_worker;
    alive := found;
    select array_agg(u.id) into v_unknown from (
        select l.id from backhaul.leases l where l.worker = p_worker and l.id <> all (p_leases)
            and l.claimed_at < clock_timestamp() - interval '45 seconds' order by l.id for update) u;
    if v_unknown is not null then
        update backhaul.jobs j set seq = null, due_at = clock_timestamp()
        where j.id = any (backhaul.jobs_of(v_unknown));
        delete from backhaul.leases l where l.id = any (v_unknown);
    end if;
    select coalesce(array_agg(u.id), '{}') into gone from unnest(p_jobs) as u (id)
    where (select true from backhaul.jobs j where j.id = u.id) is null;
    select count(*) into workers from backhaul.workers;
    now := clock_timestamp();
end $$;

-- A clean stop: what was not settled goes back without a mark.
create function backhaul.leave(p_worker uuid) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_leases bigint[];
begin
    -- A settle of this worker's that is still under way holds its leases; what it puts back is another's from then on.
    select array_agg(h.id) into v_leases from (
        select l.id from backhaul.leases l where l.worker = p_worker order by l.id for update) h;
    if v_leases is not null then
        update backhaul.jobs j set seq = null, due_at = clock_timestamp() where j.id = any (backhaul.jobs_of(v_leases));
        delete from backhaul.leases l where l.id = any (v_leases);
    end if;
    delete from backhaul.sleepers s where s.worker = p_worker;
    delete from backhaul.workers w where w.id = p_worker;
    perform backhaul.wake();
end $$;
