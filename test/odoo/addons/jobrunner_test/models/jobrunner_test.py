"""Jobs of every kind, and a table of who ran them. Runs on Odoo 14 and 19."""

import os
import signal
import time
import urllib.request

from odoo import exceptions, fields, models
from odoo.addons.queue_job.delay import chain, group
from odoo.addons.queue_job.exception import FailedJobError, RetryableJobError

ERRORS = {
    "user": lambda: exceptions.UserError("test"),
    "validation": lambda: exceptions.ValidationError("test"),
    "access": lambda: exceptions.AccessError("test"),
    "access_denied": lambda: exceptions.AccessDenied(),
    "missing": lambda: exceptions.MissingError("test"),
    "redirect": lambda: exceptions.RedirectWarning("test", 1, "test"),
    "failed": lambda: FailedJobError("test"),
    "value": lambda: ValueError("test"),
}


class JobrunnerTest(models.Model):
    """One row for each execution that got as far as writing it."""

    _name = "jobrunner.test"
    _description = "Execution of a test job"

    key = fields.Char(required=True)
    started = fields.Float(help="seconds since 1970, by the worker's clock")
    ended = fields.Float(help="seconds since 1970, by the worker's clock")
    worker_pid = fields.Integer()
    backend_pid = fields.Integer()
    application_name = fields.Char()

    # The jobs.

    def noop(self):
        return None

    def run(self, key, seconds=0):
        """Write a row in the job's own transaction, after some time."""
        started = time.time()
        if seconds:
            time.sleep(seconds)
        self._record(key, started)

    def run_query(self, key, seconds):
        """The same, with the time spent inside of PostgreSQL."""
        started = time.time()
        self.env.cr.execute("SELECT pg_sleep(%s)", [seconds])
        self._record(key, started)

    def fail(self, key, error, seconds=0):
        """Leave a row behind that survives the failure, and raise."""
        started = time.time()
        time.sleep(seconds)
        self._record_apart(key, started)
        raise ERRORS[error]()

    def retry(self, key, times, seconds):
        """Raise a retryable error that many times, then write a row."""
        started = time.time()
        if self.search_count([("key", "=", key)]) < times:
            self._record_apart(key, started)
            raise RetryableJobError("test", seconds=seconds)
        self._record(key, started)

    def conflict(self, key, times):
        """Have PostgreSQL refuse the transaction that many times."""
        started = time.time()
        if self.search_count([("key", "=", key)]) < times:
            self._record_apart(key, started)
            self.env.cr.execute(
                "DO $$ BEGIN RAISE EXCEPTION 'test' USING ERRCODE = '40001'; END $$"
            )
        self._record(key, started)

    def kill(self, key, times):
        """Kill the own worker that many times, then write a row."""
        started = time.time()
        if self.search_count([("key", "=", key)]) < times:
            self._record_apart(key, started)
            os.kill(os.getpid(), signal.SIGKILL)
        self._record(key, started)

    def commit(self, key):
        started = time.time()
        self.env.cr.commit()  # the point of this job
        self._record(key, started)

    # The jobs that hang.

    def hang_in_python(self, key, seconds):
        """Compute, without looking at the database meanwhile."""
        started = time.time()
        while time.time() < started + seconds:
            sum(range(10000))
        self._record(key, started)

    def hang_in_http(self, key, seconds, url):
        """Wait for the answer of another system, as most jobs that hang do."""
        started = time.time()
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:
                answer.read()
        except OSError:
            pass  # it never answers
        self._record(key, started)

    def hang_in_savepoint(self, key, seconds):
        """Let PostgreSQL wait inside of a savepoint, with work before it."""
        started = time.time()
        self._record(key + " before", started)
        with self.env.cr.savepoint():
            self.env.cr.execute("SELECT pg_sleep(%s)", [seconds])
        self._record(key, started)

    def hang_on(self, key, seconds):
        """Go on whatever happens to single statements."""
        started = time.time()
        while time.time() < started + seconds:
            try:
                with self.env.cr.savepoint():
                    self.env.cr.execute("SELECT pg_sleep(%s)", [seconds])
            except Exception:  # a job that handles each record apart
                time.sleep(0.1)
        self._record(key, started)

    def hang_and_commit(self, key, seconds):
        """Commit, and go on in PostgreSQL."""
        started = time.time()
        self._record(key + " before", started)
        self.env.cr.commit()  # the point of this job
        self.env.cr.execute("SELECT pg_sleep(%s)", [seconds])
        self._record(key, started)

    def _values(self, env, key, started):
        env.cr.execute("SELECT pg_backend_pid(), current_setting('application_name')")
        backend_pid, application_name = env.cr.fetchone()
        return {
            "key": key,
            "started": started,
            "ended": time.time(),
            "worker_pid": os.getpid(),
            "backend_pid": backend_pid,
            "application_name": application_name,
        }

    def _record(self, key, started):
        self.create(self._values(self.env, key, started))

    def _record_apart(self, key, started):
        """Write the row through a connection of its own, which commits."""
        with self.env.registry.cursor() as cr:
            env = self.env(cr=cr)
            env[self._name].create(self._values(env, key, started))

    # What the suite calls.

    def enqueue(self, method, arguments, options=None):
        """Make one job for each list of arguments, and return their uuids."""
        return [
            getattr(self.with_delay(**(options or {})), method)(*one).uuid
            for one in arguments
        ]

    def enqueue_graph(self, first, middle, last):
        """Make a graph: first, then all of middle, then last. Each is a list of
        arguments of run. Return the uuids in this order."""
        steps = [self.delayable().run(*first)]
        steps += [self.delayable().run(*one) for one in middle]
        steps += [self.delayable().run(*last)]
        chain(steps[0], group(*steps[1:-1]), steps[-1]).delay()
        return [step._generated_job.uuid for step in steps]

    def allow_commit(self, method):
        """Let jobs of a method commit, where the add-on forbids it otherwise."""
        functions = self.env["queue.job.function"]
        if "allow_commit" not in functions._fields:
            return False
        name = functions.job_function_name(self._name, method)
        functions.create({"name": name, "allow_commit": True})
        return True

    def alive(self, pid):
        """Tell whether a worker still exists."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def call_jobs(self, uuids, method):
        """Press a button of the job list, as a user does."""
        jobs = self.env["queue.job"].search([("uuid", "in", uuids)])
        getattr(jobs, method)()
        return len(jobs)
