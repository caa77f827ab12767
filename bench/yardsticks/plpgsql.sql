-- The yardstick: what one would do for speed without us, on the same tables with the same rows and constraints.
-- One PL/pgSQL call and one commit for each operation; the account's row is locked, as ours does.
CREATE FUNCTION y_enter(
    payer text, hold text, kind text, amount bigint, before bigint, seq bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO credit_ledger (id, account_id, pool_id, reservation_id, entry_seq, entry_type, amount_micro,
                               pre_balance_micro, post_balance_micro, created_at)
        VALUES (gen_random_uuid()::text, payer, 'general', hold, seq, kind, amount, before, before + amount, now());
END $$;

CREATE FUNCTION y_reserve(payer text, wanted bigint, request text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    balance credit_balances; lot record; missing bigint := wanted; part bigint; seq bigint; known text;
    hold text := gen_random_uuid()::text; reply text;
BEGIN
    PERFORM 1 FROM credit_accounts WHERE id = payer FOR NO KEY UPDATE;
    SELECT answer INTO known FROM credit_operations
        WHERE idempotency_key = request AND account_id = payer AND operation = 'reserve';
    IF FOUND THEN RETURN known; END IF;
    SELECT * INTO balance FROM credit_balances WHERE account_id = payer AND pool_id = 'general';
    IF balance.available_micro < wanted THEN RAISE EXCEPTION 'insufficient_credits'; END IF;
    INSERT INTO credit_reservations (id, account_id, pool_id, total_reserved_micro, status, billing_mode, expires_at,
                                     created_at, idempotency_key)
        VALUES (hold, payer, 'general', wanted, 'pending', 'live', now() + interval '300 s', now(), request);
    FOR lot IN SELECT id, available_micro FROM credit_lots
        WHERE account_id = payer AND pool_id = 'general' AND is_open ORDER BY expires_at, created_at, id LOOP
        part := least(missing, lot.available_micro);
        CONTINUE WHEN part = 0;
        UPDATE credit_lots SET available_micro = available_micro - part, reserved_micro = reserved_micro + part
            WHERE id = lot.id;
        INSERT INTO reservation_lots (reservation_id, lot_id, reserved_micro, created_at) VALUES (hold, lot.id, part, now());
        missing := missing - part;
        EXIT WHEN missing = 0;
    END LOOP;
    UPDATE credit_account_seq SET next_seq = next_seq + 1 WHERE account_id = payer AND pool_id = 'general'
        RETURNING next_seq - 1 INTO seq;
    PERFORM y_enter(payer, hold, 'reserve', -wanted, balance.available_micro, seq);
    UPDATE credit_balances SET available_micro = available_micro - wanted, reserved_micro = reserved_micro + wanted,
        version = version + 1, updated_at = now() WHERE account_id = payer AND pool_id = 'general';
    reply := json_build_object('reservationId', hold, 'accountId', payer, 'reservedMicro', wanted::text, 'status', 'pending',
        'balance', json_build_object('availableMicro', (balance.available_micro - wanted)::text,
                                     'reservedMicro', (balance.reserved_micro + wanted)::text))::text;
    INSERT INTO credit_operations (idempotency_key, account_id, operation, fingerprint, answer, created_at)
        VALUES (request, payer, 'reserve', wanted::text, reply, now());
    RETURN hold;
END $$;

CREATE FUNCTION y_finalize(hold text, actual bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    held credit_reservations; balance credit_balances; piece record; due bigint := actual; part bigint; seq bigint;
    commons bigint := actual * 500 / 10000; community bigint := actual * 7000 / 10000; reply text;
BEGIN
    SELECT * INTO held FROM credit_reservations WHERE id = hold FOR NO KEY UPDATE;
    PERFORM 1 FROM credit_accounts WHERE id = held.account_id FOR NO KEY UPDATE;
    SELECT answer INTO reply FROM credit_operations
        WHERE idempotency_key = hold AND account_id = held.account_id AND operation = 'finalize';
    IF FOUND THEN RETURN reply; END IF;
    IF held.status <> 'pending' THEN RAISE EXCEPTION 'not pending'; END IF;
    SELECT * INTO balance FROM credit_balances WHERE account_id = held.account_id AND pool_id = 'general';
    FOR piece IN SELECT rl.lot_id, rl.reserved_micro FROM reservation_lots rl JOIN credit_lots l ON l.id = rl.lot_id
        WHERE rl.reservation_id = hold ORDER BY l.expires_at, l.created_at, l.id LOOP
        part := least(due, piece.reserved_micro);
        UPDATE credit_lots SET reserved_micro = reserved_micro - piece.reserved_micro, consumed_micro = consumed_micro + part,
            available_micro = available_micro + piece.reserved_micro - part,
            is_open = available_micro + reserved_micro - part > 0 WHERE id = piece.lot_id;
        UPDATE reservation_lots SET reserved_micro = 0, consumed_micro = part WHERE reservation_id = hold AND lot_id = piece.lot_id;
        due := due - part;
    END LOOP;
    UPDATE credit_reservations SET status = 'finalized', finalized_at = now(), requested_cost_micro = actual,
        finalized_micro = actual, released_micro = held.total_reserved_micro - actual, commons_micro = commons,
        community_micro = community, foundation_micro = actual - commons - community, is_revenue_posted = false WHERE id = hold;
    UPDATE credit_account_seq SET next_seq = next_seq + 2 WHERE account_id = held.account_id AND pool_id = 'general'
        RETURNING next_seq - 2 INTO seq;
    PERFORM y_enter(held.account_id, hold, 'release', held.total_reserved_micro, balance.available_micro, seq);
    PERFORM y_enter(held.account_id, hold, 'finalize', -actual, balance.available_micro + held.total_reserved_micro, seq + 1);
    INSERT INTO credit_ledger (id, account_id, pool_id, reservation_id, entry_type, amount_micro, created_at) VALUES
        (gen_random_uuid()::text, 'sys-commons', 'general', hold, 'commons_contribution', commons, now()),
        (gen_random_uuid()::text, 'sys-community-pool', 'general', hold, 'revenue_share', community, now()),
        (gen_random_uuid()::text, 'sys-foundation', 'general', hold, 'revenue_share', actual - commons - community, now());
    UPDATE credit_balances SET available_micro = available_micro + held.total_reserved_micro - actual,
        reserved_micro = reserved_micro - held.total_reserved_micro, version = version + 1, updated_at = now()
        WHERE account_id = held.account_id AND pool_id = 'general';
    reply := json_build_object('reservationId', hold, 'finalizedMicro', actual::text,
        'releasedMicro', (held.total_reserved_micro - actual)::text, 'finalizedAt', now())::text;
    INSERT INTO credit_operations (idempotency_key, account_id, operation, fingerprint, answer, created_at)
        VALUES (hold, held.account_id, 'finalize', actual::text, reply, now());
    RETURN reply;
END $$;

-- pgbench draws numbers; accounts have names.
CREATE TABLE y_payers AS SELECT row_number() OVER (ORDER BY id) AS place, id FROM credit_accounts WHERE id NOT LIKE 'sys-%';
CREATE UNIQUE INDEX ON y_payers (place);
