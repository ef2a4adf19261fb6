-- Ordering keys: one job of a key in flight, first in first out, also across retries.

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
    -- that waits in another lane or priority. In key order, so that two calls cannot deadlock; two claims can, that meet
    -- two keys each over two cursors, and then Postgres ends one of them, whose worker claims again.
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
