DROP TABLE IF EXISTS queue_job_lock, queue_job, queue_job_channel CASCADE;
DROP FUNCTION IF EXISTS queue_job_notify();
UPDATE ir_module_module SET state = 'uninstalled', latest_version = NULL WHERE name = 'queue_job';
