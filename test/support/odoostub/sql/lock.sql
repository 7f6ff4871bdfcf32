-- The table whose row locks prove that a started job lives (contract.md 3.4).
CREATE TABLE IF NOT EXISTS queue_job_lock (
	id serial PRIMARY KEY,
	queue_job_id int NOT NULL REFERENCES queue_job ON DELETE CASCADE,
	create_uid int,
	create_date timestamp,
	write_uid int,
	write_date timestamp
);
CREATE INDEX IF NOT EXISTS queue_job_lock_queue_job_id_index ON queue_job_lock (queue_job_id);
