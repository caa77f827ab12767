\set place random(1, :accounts)
SELECT y_reserve(id, 10, gen_random_uuid()::text) AS hold FROM y_payers WHERE place = :place \gset
SELECT y_finalize(:hold, 7);
