-- Every insert and update is announced, whatever it changes; a deletion only
-- when the job was not done, and not when its state is NULL (contract.md 1.1).
CREATE OR REPLACE FUNCTION queue_job_notify() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
	IF TG_OP <> 'DELETE' THEN
		PERFORM pg_notify('connector', NEW.uuid);
	ELSIF OLD.state <> 'done' THEN
		PERFORM pg_notify('connector', OLD.uuid);
	END IF;
	RETURN NULL;
END;
$body$;
DROP TRIGGER IF EXISTS queue_job_notify ON queue_job;
CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE OR DELETE ON queue_job
	FOR EACH ROW EXECUTE PROCEDURE queue_job_notify();
