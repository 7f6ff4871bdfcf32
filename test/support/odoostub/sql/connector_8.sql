-- What came with 8.0: channels.
CREATE TABLE IF NOT EXISTS queue_job_channel (
	id serial PRIMARY KEY,
	name varchar,
	complete_name varchar UNIQUE,
	parent_id int REFERENCES queue_job_channel ON DELETE RESTRICT
);
ALTER TABLE queue_job ADD COLUMN IF NOT EXISTS channel varchar;
CREATE INDEX IF NOT EXISTS queue_job_channel_index ON queue_job (channel);
INSERT INTO queue_job_channel (name, complete_name) VALUES ('root', 'root')
	ON CONFLICT (complete_name) DO NOTHING;
