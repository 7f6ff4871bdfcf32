-- What changed with 9.0: the workers of the old queue are gone.
ALTER TABLE queue_job
	DROP COLUMN IF EXISTS active,
	DROP COLUMN IF EXISTS worker_id,
	ADD COLUMN IF NOT EXISTS forced_channel varchar;
DROP TABLE IF EXISTS queue_worker;
