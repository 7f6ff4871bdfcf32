// Package channels decides which jobs run when: a tree of channels, each with a capacity and a
// priority queue, as OCA's queue_job add-on for Odoo has it (docs/contract.md 2). It is pure: no
// clock, no goroutine, no log, no database.
//
// # The tree
//
// The dots in a channel's name are the tree; "root" is its top and may be left out. The
// configuration sets limits on nodes. Every other channel a job names exists as long as the job
// does and has no limits, so its configured ancestors decide. Changing the configuration therefore
// never moves a job to another channel.
//
// Jobs flow from their own channel towards root. In a pass, every channel lets its best jobs pass
// into the queue of its parent, as far as its own limits allow; what root lets pass is started:
//
//	      Next                 root      capacity 4
//	       ^              ┌── queue ──┐
//	       └──────────────┤ J7 J3 J9  │  running: what root has let pass
//	                      └─▲───────▲─┘
//	           ┌────────────┘       └────────────┐
//	root.mail  │ capacity 2        root.invoices │ capacity 1, sequential
//	      ┌─ queue ─┐                       ┌─ queue ─┐
//	      │ J5 J6   │  running: J3 J4       │ J10     │  running: J9
//	      └─────────┘                       └─────────┘
//	       eta: J8 at 12:00                  failed: none
//
// J3 and J9 wait in root's queue and already occupy slots in their own channels. They keep
// competing there with jobs that arrive later.
//
// # Order
//
// Jobs sort by priority (smaller first), date of creation, id. A job with an eta in the future is
// set aside in its own channel. Once the eta has come it competes like any other: being late gives
// no precedence.
//
// # Limits
//
// Capacity is the number of jobs a channel may have let pass and that are not done. 0 is unlimited;
// a negative one never has room. Jobs found running, after a restart for instance, count even above
// the capacity. Root has capacity 1 unless it is configured.
//
// A throttled channel lets one job pass and then none until the throttle time is over. In front of
// a full parent this spaces the moves into its queue, not the starts.
//
// A sequential channel has capacity 1 and stops when one of its jobs fails, until that job is
// requeued, done, cancelled or deleted. It also waits for the job with the earliest eta if that
// would come first without its eta.
//
// A paused channel lets nothing pass; jobs of the channels below gather in its queue.
//
// # Use
//
// Feed every row to Manager.Set. When Manager.Pending reports true, or the time Manager.Wakeup
// names has come, call Manager.Next and start what it returns.
package channels
