-- The add-on as of 10.0 and 11.0 (contract.md 1.2). It creates no trigger.
CREATE TABLE IF NOT EXISTS queue_job_channel (
	id serial PRIMARY KEY,
	name varchar,
	complete_name varchar UNIQUE,
	parent_id int REFERENCES queue_job_channel ON DELETE RESTRICT,
	removal_interval int
);
CREATE TABLE IF NOT EXISTS queue_job (
	id serial PRIMARY KEY,
	uuid varchar NOT NULL,
	user_id int,
	company_id int,
	name varchar,
	model_name varchar,
	method_name varchar,
	record_ids text,
	args text,
	kwargs text,
	func_string varchar,
	state varchar NOT NULL,
	priority int,
	exc_info text,
	result text,
	date_created timestamp,
	date_enqueued timestamp,
	date_started timestamp,
	date_done timestamp,
	eta timestamp,
	retry int,
	max_retries int,
	channel varchar,
	identity_key varchar
);
CREATE INDEX IF NOT EXISTS queue_job_uuid_index ON queue_job (uuid);
CREATE INDEX IF NOT EXISTS queue_job_state_index ON queue_job (state);
CREATE INDEX IF NOT EXISTS queue_job_channel_index ON queue_job (channel);
CREATE INDEX IF NOT EXISTS queue_job_identity_key_state_partial_index ON queue_job (identity_key)
	WHERE state IN ('pending', 'enqueued') AND identity_key IS NOT NULL;
INSERT INTO queue_job_channel (name, complete_name) VALUES ('root', 'root')
	ON CONFLICT (complete_name) DO NOTHING;
