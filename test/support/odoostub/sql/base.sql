-- What every Odoo database has.
CREATE TABLE IF NOT EXISTS ir_module_module (
	id serial PRIMARY KEY,
	name varchar NOT NULL UNIQUE,
	state varchar(16),
	latest_version varchar
);
CREATE TABLE IF NOT EXISTS ir_config_parameter (
	id serial PRIMARY KEY,
	key varchar NOT NULL UNIQUE,
	value text NOT NULL
);
INSERT INTO ir_module_module (name, state) VALUES
	('base', 'installed'), ('web', 'installed'), ('queue_job', 'uninstalled')
	ON CONFLICT (name) DO NOTHING;
INSERT INTO ir_config_parameter (key, value) VALUES
	('database.uuid', md5(random()::text)::uuid::text)
	ON CONFLICT (key) DO NOTHING;
