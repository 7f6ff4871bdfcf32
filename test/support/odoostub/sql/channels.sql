-- Channels that are configured in the database (contract.md 6.2).
ALTER TABLE queue_job_channel
	ADD COLUMN IF NOT EXISTS capacity int,
	ADD COLUMN IF NOT EXISTS sequential boolean,
	ADD COLUMN IF NOT EXISTS throttle int,
	ADD COLUMN IF NOT EXISTS paused boolean,
	ADD COLUMN IF NOT EXISTS capacity_default int,
	ADD COLUMN IF NOT EXISTS sequential_default boolean;
