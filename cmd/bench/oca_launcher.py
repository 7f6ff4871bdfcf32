"""Run the job runner of an add-on queue_job in a process of its own.

Usage: python3 -c LAUNCHER FOLDER DATABASE

The files of the runner are executed as they are. What they import of Odoo is answered
for here: where the databases are, the states of jobs, and no configuration but the
environment. Nothing else of Odoo is loaded.
"""

import importlib
import logging
import os
import signal
import sys
import types

folder, database = sys.argv[1:3]


def module(name, **members):
    """Make a module that holds no more than these members."""
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, made)
    return made


def package(name, path):
    """Make a package whose modules are the files of a folder."""
    module(name).__path__ = [path]


class ChannelNotFound(Exception):
    """What the runner raises for a channel that is not configured."""


STATES = {
    name: name.lower()
    for name in (
        "PENDING", "ENQUEUED", "STARTED", "DONE", "CANCELLED", "FAILED", "WAIT_DEPENDENCIES",
    )
}

module("odoo")
module(
    "odoo.sql_db",
    connection_info_for=lambda name: (name, {"database": name, "application_name": "odoo"}),
)
module("odoo.tools", config={"db_name": [database], "http_interface": "", "http_port": 0})
package("odoo.addons", os.path.dirname(folder))
package("odoo.addons.queue_job", folder)
module("odoo.addons.queue_job.exception", ChannelNotFound=ChannelNotFound)
module("odoo.addons.queue_job.job", **STATES)
package("odoo.addons.queue_job.jobrunner", os.path.join(folder, "jobrunner"))
sys.modules["odoo.addons.queue_job.jobrunner"].queue_job_config = {}

logging.basicConfig(level=logging.INFO, stream=open(os.devnull, "w"))
runner = importlib.import_module("odoo.addons.queue_job.jobrunner.runner")


class Runner(runner.QueueJobRunner):
    """The add-on's, which says when it has read the jobs."""

    def initialize_databases(self):
        super().initialize_databases()
        print("ready", flush=True)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
Runner.from_environ_or_config().run()
