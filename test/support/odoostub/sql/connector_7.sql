-- The add-on connector as of 7.0 (contract.md 1.2). It creates no trigger.
CREATE TABLE IF NOT EXISTS queue_worker (
	id serial PRIMARY KEY,
	uuid varchar,
	pid int,
	date_start timestamp,
	date_alive timestamp
);
CREATE TABLE IF NOT EXISTS queue_job (
	id serial PRIMARY KEY,
	uuid varchar NOT NULL,
	user_id int,
	company_id int,
	worker_id int REFERENCES queue_worker ON DELETE SET NULL,
	name varchar,
	model_name varchar,
	func_string varchar,
	func bytea,
	state varchar NOT NULL,
	priority int,
	exc_info text,
	result text,
	date_created timestamp,
	date_enqueued timestamp,
	date_started timestamp,
	date_done timestamp,
	eta timestamp,
	active boolean,
	retry int,
	max_retries int
);
CREATE INDEX IF NOT EXISTS queue_job_uuid_index ON queue_job (uuid);
CREATE INDEX IF NOT EXISTS queue_job_state_index ON queue_job (state);
CREATE TABLE IF NOT EXISTS ir_cron (
	id serial PRIMARY KEY,
	name varchar NOT NULL,
	active boolean,
	model varchar,
	function varchar
);
INSERT INTO ir_module_module (name, state) VALUES ('connector', 'uninstalled')
	ON CONFLICT (name) DO NOTHING;
