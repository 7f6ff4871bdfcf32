{
    "name": "Job runner test",
    "summary": "Jobs that the suite of caddy-jobrunner runs",
    "version": "1.0",
    "license": "Other OSI approved licence",
    "depends": ["queue_job"],
    "data": ["security/ir.model.access.csv"],
    "installable": True,
}
