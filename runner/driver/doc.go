// Package driver is the contract between the engine in package runner and the application whose
// jobs it runs.
//
// The model is that of HashiCorp Nomad's task drivers. The engine decides what runs when; a driver
// knows how a task is found, started, waited for, inspected and recovered. A task is one attempt at
// one job, identified by database, uuid and the moment at which it was claimed. Its handle is the
// job's row (and lock row) in the database, written before the task starts, so neither side stores
// anything.
//
//	Nomad's task driver                 here
//	----------------------------------  ------------------------------------------------------------
//	TaskConfig                          [Task]: one attempt at one job
//	TaskHandle.DriverState              [Task.DriverState], from [Session.Claim] to [Driver.Run]
//	Capabilities                        [Capabilities]
//	Fingerprint, HealthState            [Fingerprint] and [Health], by [Session.Fingerprint]: of each
//	                                    database; of each server, by [Driver.Check]
//	StartTask                           [Session.Claim], committed, and then [Driver.Run]
//	WaitTask, ExitResult                the return of [Driver.Run] with a [Result]; the row decides
//	RecoverTask                         [Session.Snapshot] finds running tasks, [Session.Inspect]
//	                                    tells whether they live, [Session.Rescue] puts back the dead
//	InspectTask, TaskStatus             [Session.Inspect] and [Liveness]
//	TaskEvents                          [Session.Wait] and [Notifications]
//	StopTask, SignalTask                [Stopper], if a session has it: a job cannot be called back, but
//	                                    its backend can be told to end
//	DestroyTask                         nothing: the application keeps the row
//	ErrTaskNotFound                     [Liveness.Gone], or a row that [Session.Read] does not return
//
// What Nomad does not have is a task that is found instead of being submitted: [Cluster] lists the
// databases, [Session.Snapshot] and [Session.Read] the jobs in them; [Session.Unclaim] puts back
// what was claimed and not delivered.
//
// # Rules
//
// The engine owns all timers and all decisions: a driver never sleeps, retries or logs, and holds
// no state but its connections and what it can ask for again. Every call takes a context with a
// deadline, except [Driver.Run], which lasts as long as the job. [Driver] is safe for concurrent
// use; a [Cluster], a [Session] and [Operations] are each owned by one goroutine.
//
// # Optional abilities
//
// A driver need only implement [Driver], [Cluster] and [Session]. What it can do beyond that, it
// declares in [Capabilities] and implements in these interfaces: [Operator] and [Examiner] are
// implemented by drivers, [ChannelReader], [Stopper], [Upgrader], [Releaser], [Quarantiner], [Sharer] and [Follower] by
// sessions, [Adviser] by clusters. A configuration that asks for what the driver does not declare is
// refused. Follower and Adviser need no declaration, because nothing can ask for them. A driver that
// wraps another one should embed its type, not the interface Driver, which hides these methods.
//
// Package drivertest is the conformance suite that every driver has to pass, package mock is a
// driver that serves as a template: it has all abilities and needs no database.
package driver
