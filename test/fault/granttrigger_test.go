//go:build fault

package fault

import "time"

// onClaim is a trigger that does something when a job is claimed.
func onClaim(body string) string {
	return `CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
			IF OLD.state = 'pending' AND NEW.state = 'enqueued' THEN ` + body + ` END IF;
			RETURN NEW;
		END $f$;
		CREATE TRIGGER a_meddle BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE meddle();`
}

// grantTriggers are about triggers and rules that others have put on queue_job.
var grantTriggers = []grantFault{
	{
		name: "trigger: another channel", sql: onClaim("NEW.channel := 'root.sub';"),
		channels: "root:1,sub:1", capacities: map[string]int{"root": 1, "root.sub": 1},
	},
	{name: "trigger: another priority", sql: onClaim("NEW.priority := 0;")},
	{name: "trigger: another uuid", sql: onClaim("NEW.uuid := 'x' || substr(OLD.uuid, 2);")},
	{name: "trigger: another uuid each time", sql: onClaim("NEW.uuid := md5(random()::text)::uuid;"), undone: true},
	{name: "trigger: state pending", sql: onClaim("NEW.state := 'pending';"), undone: true},
	{name: "trigger: state started", sql: onClaim("NEW.state := 'started';"), undone: true},
	{name: "trigger: state done", sql: onClaim("NEW.state := 'done';")},
	{name: "trigger: state failed", sql: onClaim("NEW.state := 'failed';")},
	{name: "trigger: a state that is unknown", sql: onClaim("NEW.state := 'nonsense';"), undone: true},
	{name: "trigger: an empty state", sql: onClaim("NEW.state := '';"), undone: true},
	{name: "trigger: no date_enqueued", sql: onClaim("NEW.date_enqueued := NULL;")},
	{name: "trigger: any date_enqueued", sql: onClaim("NEW.date_enqueued := now() - random() * interval '1 year';")},
	{name: "trigger: an eta", sql: onClaim("NEW.eta := now() + interval '1 hour';")},
	{name: "trigger: an error", sql: onClaim("RAISE 'no';"), undone: true},
	{name: "trigger: an error as of a lock", sql: onClaim("RAISE 'no' USING ERRCODE = '55P03';"), undone: true},
	{name: "trigger: an error as of serialization", sql: onClaim("RAISE 'no' USING ERRCODE = '40001';"), undone: true},
	{name: "trigger: no row", sql: onClaim("RETURN NULL;"), undone: true},
	{name: "trigger: sleeps for 6 s", sql: onClaim("PERFORM pg_sleep(6);"), undone: true},
	{
		name: "trigger: sleeps for 0.3 s", sql: onClaim("PERFORM pg_sleep(0.3);"),
		strike: func(b *grantBed) {
			for range 10 {
				b.stream(1)
				b.wait(100 * time.Millisecond)
			}
		},
	},
	{
		name: "trigger: 1,000 notifications", sql: onClaim(`PERFORM pg_notify('queue_job', OLD.uuid);
			PERFORM pg_notify('queue_job', md5(i::text)::uuid::text) FROM generate_series(1, 1000) AS i;`),
	},
	{
		name: "trigger: a job more", sql: onClaim(`IF OLD.name <> 'one more' THEN
				INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries)
				VALUES (md5(OLD.uuid)::uuid, 'one more', 'pending', 'root', 10, now() AT TIME ZONE 'UTC', 0, 5);
			END IF;`),
	},
	{name: "rule: nothing instead of a claim", unused: true, undone: true, sql: "CREATE RULE r AS ON UPDATE TO queue_job WHERE NEW.state = 'enqueued' DO INSTEAD NOTHING"},
	{
		name: "rule: something else as well", unused: true, undone: true,
		sql: "CREATE TABLE copies (uuid varchar); CREATE RULE r AS ON UPDATE TO queue_job DO ALSO INSERT INTO copies VALUES (NEW.uuid)",
	},
}
