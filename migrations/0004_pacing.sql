-- Tokens of the upstream limits that the whole fleet shares.

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

-- Whether a bucket has a token at this moment, of the backfill's part for work that may have no more. One without a limit
-- always has.
create function backhaul.bucket_has(b backhaul.buckets, p_backfill boolean) returns boolean
language sql as $$
    select b.per_minute is null
        or (b.tokens + backhaul.bucket_rate(b.per_minute)
                * greatest(0, extract(epoch from clock_timestamp() - b.refilled_at))::double precision >= 1
            and (not p_backfill or b.backfill_share >= 1
                 or b.backfill_tokens + b.backfill_share * backhaul.bucket_rate(b.per_minute)
                     * greatest(0, extract(epoch from clock_timestamp() - b.refilled_at))::double precision >= 1))
$$;

-- Takes up to `want` tokens of a bucket at once, so that its row is not hot, and as many of each wider limit that it lies
-- within and of those in `p_more`: the same number of all, or of none, so that no token is lost where another bucket has
-- none. Where none was granted, `refused` names the bucket with the longest wait, `wait_ms` its wait and `why` its cause.
-- A probe goes through where others wait for its outcome: it may need several requests to get to its end.
-- Rows are locked in the order of their names, or two takers of the same limits would deadlock. With `p_waits` false a
-- bucket that somebody else has locked grants nothing, so that a claim which holds one bucket never waits for a second:
-- claims meet buckets in the order of their lanes.
create function backhaul.bucket_take(p_tenant text, p_name text, p_want integer, p_backfill boolean,
                                     p_probe boolean default false, p_waits boolean default true,
                                     p_more text[] default '{}',
                                     out granted integer, out wait_ms bigint, out why text, out refused text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    b backhaul.buckets;
    v_names text[];
    v_held backhaul.buckets[] := '{}';
    v_closed boolean;
    v_wait bigint;
    v_rate double precision;
    v_now timestamptz;
begin
    v_names := array[p_name] || p_more
        || coalesce((select x.within from backhaul.buckets x where x.tenant = p_tenant and x.name = p_name), '{}');
    if not p_waits and (select count(*) from backhaul.buckets x where x.tenant = p_tenant and x.name = any (v_names))
        > (select count(*) from (select from backhaul.buckets x where x.tenant = p_tenant and x.name = any (v_names)
                                 for update skip locked) l) then
        granted := 0;
        wait_ms := 1;
        why := 'limit';
        refused := p_name;
        return;
    end if;
    granted := p_want;
    for b in select x.* from backhaul.buckets x where x.tenant = p_tenant and x.name = any (v_names)
             order by x.name for update loop
        v_now := clock_timestamp();
        v_closed := coalesce(b.blocked_until > v_now, false) and not (b.probing and p_probe);
        v_wait := case when v_closed then ceil(extract(epoch from b.blocked_until - v_now) * 1000) end;
        if b.probing and not p_probe then
            -- The next probe is ten seconds away for everybody: at most six a minute.
            granted := least(granted, 1);
            b.blocked_until := v_now + interval '10 seconds';
            b.blocked_why := 'upstream down: one job tries it';
        end if;
        if b.per_minute is not null then
            v_rate := backhaul.bucket_rate(b.per_minute) * greatest(0, extract(epoch from v_now - b.refilled_at));
            b.tokens := least(backhaul.bucket_burst(b.per_minute), b.tokens + v_rate);
            b.backfill_tokens := least(backhaul.bucket_burst(b.per_minute), b.backfill_tokens + b.backfill_share * v_rate);
            b.refilled_at := v_now;
            granted := least(granted, floor(b.tokens)::integer);
            v_rate := backhaul.bucket_rate(b.per_minute);
            v_wait := coalesce(v_wait, case when b.tokens < 1 then ceil((1 - b.tokens) / v_rate * 1000) end);
            if p_backfill and b.backfill_share < 1 then
                granted := least(granted, floor(b.backfill_tokens)::integer);
                if b.backfill_tokens < 1 and not v_closed then
                    v_wait := greatest(v_wait, ceil((1 - b.backfill_tokens) / (b.backfill_share * v_rate) * 1000));
                end if;
            end if;
        end if;
        if v_wait > coalesce(wait_ms, 0) then
            wait_ms := v_wait;
            why := case when v_closed then coalesce(b.blocked_why, 'blocked') else 'limit' end;
            refused := b.name;
        end if;
        v_held := v_held || b;
    end loop;
    if wait_ms is not null then
        granted := 0;
        return;
    end if;
    foreach b in array v_held loop
        continue when b.per_minute is null and not b.probing;
        update backhaul.buckets x set
            tokens = b.tokens - case when b.per_minute is null then 0 else granted end,
            backfill_tokens = b.backfill_tokens
                - case when p_backfill and b.per_minute is not null and b.backfill_share < 1 then granted else 0 end,
            refilled_at = b.refilled_at, blocked_until = b.blocked_until, blocked_why = b.blocked_why
        where x.tenant = b.tenant and x.name = b.name;
    end loop;
end $$;

-- States a limit, and the wider ones that it lies within; the tokens start empty but for one, so that a restart is no
-- burst.
create function backhaul.bucket_limit(p_tenant text, p_name text, p_per_minute integer, p_within text[] default '{}')
returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.buckets as x (tenant, name, per_minute, tokens, within)
    values (p_tenant, p_name, p_per_minute, 1, p_within)
    on conflict (tenant, name) do update set per_minute = excluded.per_minute, within = excluded.within
    where (x.per_minute, x.within) is distinct from (excluded.per_minute, excluded.within)
$$;
