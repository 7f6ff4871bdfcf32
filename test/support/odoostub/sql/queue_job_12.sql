-- What came with 12.0 and 14.0: dependencies and more columns.
ALTER TABLE queue_job
	ADD COLUMN IF NOT EXISTS exc_name varchar,
	ADD COLUMN IF NOT EXISTS exc_message varchar,
	ADD COLUMN IF NOT EXISTS worker_pid int,
	ADD COLUMN IF NOT EXISTS exec_time float8,
	ADD COLUMN IF NOT EXISTS date_cancelled timestamp,
	ADD COLUMN IF NOT EXISTS graph_uuid varchar,
	ADD COLUMN IF NOT EXISTS dependencies text;
CREATE INDEX IF NOT EXISTS queue_job_graph_uuid_index ON queue_job (graph_uuid);
