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
