package policy_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// limited is a policy with a time limit of some minutes, by which it is told from others.
func limited(minutes int, channels ...string) policy.Policy {
	return policy.Policy{Channels: channels, Timeout: &policy.Timeout{After: time.Duration(minutes) * time.Minute}}
}

func TestValidate(t *testing.T) {
	timeout := func(t policy.Timeout) policy.Policy { return policy.Policy{Channels: []string{"root"}, Timeout: &t} }
	for want, p := range map[string]policy.Policy{
		"a policy without channels":                        {},
		"policy root: it has no option: give it a timeout": {Channels: []string{"root"}},
		"policy root database a: it has no option":         {Channels: []string{"root"}, Database: "a"},
		`policy mail: channel "mail": channels of policies have full names: root, or what begins with root. or *, such as root.mail`: limited(1, "mail"),
		`policy root ro*: channel "ro*": channels of policies have full names`:                                                       limited(1, "root", "ro*"),
		`policy roots.x: channel "roots.x": channels of policies have full names`:                                                    limited(1, "roots.x"),
		`policy : channel "": channels of policies have full names`:                                                                  limited(1, ""),
		`policy root.[: glob "root.[": syntax error in pattern`:                                                                      limited(1, "root.["),
		`policy root database [: glob "[": syntax error in pattern`:                                                                  {Channels: []string{"root"}, Database: "[", Timeout: &policy.Timeout{After: 1}},
		`policy root function a[: glob "a[": syntax error in pattern`:                                                                {Channels: []string{"root"}, Function: "a[", Timeout: &policy.Timeout{After: 1}},
		"policy root: timeout: the limit itself, after, is missing":                                                                  timeout(policy.Timeout{}),
		"policy root: timeout must be positive":                                                                                      timeout(policy.Timeout{After: -1}),
		"policy root: warn must not be negative":                                                                                     timeout(policy.Timeout{After: 1, Warn: -1}),
		"policy root: grace must not be negative":                                                                                    timeout(policy.Timeout{After: 1, Grace: -1}),
		"policy root: warn: 1m0s is not below the timeout of 1m0s":                                                                   timeout(policy.Timeout{After: time.Minute, Warn: time.Minute}),
		"policy root: grace needs cancel: without it, nothing is done to the job":                                                    timeout(policy.Timeout{After: time.Minute, Grace: time.Minute}),
		"policy root: retry needs cancel: without it, the job goes on":                                                               timeout(policy.Timeout{After: time.Minute, Retry: true}),
	} {
		t.Run(want, func(t *testing.T) { require.ErrorContains(t, p.Validate(), want) })
	}
	for _, glob := range []string{"root", "root.*", "root*", "*", "*.mail", "root.mail", "root?mail", "root[.]mail", `root\.mail`} {
		p := limited(1, glob)
		require.NoError(t, p.Validate(), glob)
	}
	p := timeout(policy.Timeout{After: time.Minute, Warn: time.Second, Cancel: true, Grace: time.Second, Retry: true})
	require.NoError(t, p.Validate())
}

func TestFirstThatMatchesAndHasIt(t *testing.T) {
	var none *policy.Set
	require.Nil(t, none.Timeout(policy.Job{Channel: "root"}))
	require.Nil(t, policy.Compile(nil))

	narrow := limited(3, "root.*")
	narrow.Database = "prod_*"
	function := limited(4, "*")
	function.Function = "sale.order.*"
	s := policy.Compile([]policy.Policy{
		{Channels: []string{"root.mail"}}, // without the option, it takes nothing from those below
		limited(1, "root.export.*", "root.import"), limited(2, "root.mail*"), narrow, function, limited(5, "root*"),
	})
	for job, minutes := range map[policy.Job]int{
		{Channel: "root.export.a.b", Database: "x"}:                      1,
		{Channel: "root.import", Database: "prod_a"}:                     1,
		{Channel: "root.mail", Database: "prod_a"}:                       2,
		{Channel: "root.mail.a", Database: "a/b"}:                        2,
		{Channel: "root.export", Database: "prod_a"}:                     3,
		{Channel: "root.other", Database: "prod_a/b"}:                    3,
		{Channel: "root.other", Database: "a", Function: "sale.order.f"}: 4,
		{Channel: "root.other", Database: "a", Function: "sale.line.f"}:  5,
		{Channel: "root", Database: "prod_a", Function: "sale.line.f"}:   5,
		{Channel: "root", Database: "prod_a"}:                            0, // it could be sale.order's
	} {
		p := s.Timeout(job)
		if minutes == 0 {
			require.Nil(t, p, "%+v", job)
			continue
		}
		require.NotNil(t, p, "%+v", job)
		require.Equal(t, time.Duration(minutes)*time.Minute, p.Timeout.After, "%+v", job)
	}
}

func TestGraceDefault(t *testing.T) {
	of := func(timeout policy.Timeout) *policy.Timeout {
		s := policy.Compile([]policy.Policy{{Channels: []string{"*"}, Timeout: &timeout}})
		return s.Timeout(policy.Job{Channel: "root"}).Timeout
	}
	require.Equal(t, policy.GraceDefault, of(policy.Timeout{After: 1, Cancel: true}).Grace)
	require.Equal(t, time.Minute, of(policy.Timeout{After: 1, Cancel: true, Grace: time.Minute}).Grace)
	require.Zero(t, of(policy.Timeout{After: 1}).Grace)
}

// globbed is the plain meaning of a glob of letters, "*" and "?".
func globbed(glob, name string) bool {
	switch {
	case glob == "":
		return name == ""
	case glob[0] == '*':
		return globbed(glob[1:], name) || name != "" && globbed(glob, name[1:])
	}
	return name != "" && (glob[0] == '?' || glob[0] == name[0]) && globbed(glob[1:], name[1:])
}

// TestMatching compares the set with a search that is as plain as the documentation.
func TestMatching(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 13))
	pick := func(list ...string) string { return list[dice.IntN(len(list))] }
	word := func(letters string) string {
		var b strings.Builder
		for range dice.IntN(5) {
			b.WriteByte(letters[dice.IntN(len(letters))])
		}
		return b.String()
	}
	limitedJobs := 0
	for range 20_000 {
		var policies []policy.Policy
		for i := range dice.IntN(5) {
			p := policy.Policy{Channels: []string{pick("root", "root.", "*", "root*", "root?") + word("ab.*?/")}}
			for dice.IntN(3) == 0 {
				p.Channels = append(p.Channels, "root."+word("ab.*?"))
			}
			if dice.IntN(3) == 0 {
				p.Database = word("ab*?/")
			}
			if dice.IntN(4) == 0 {
				p.Function = word("ab.*?")
			}
			if dice.IntN(4) > 0 {
				p.Timeout = &policy.Timeout{After: time.Duration(i + 1)}
			}
			policies = append(policies, p)
		}
		job := policy.Job{Channel: pick("root", "root."+word("ab./")), Database: word("ab/"), Function: word("ab.")}
		want := time.Duration(0)
		for _, p := range policies {
			matches := false
			for _, glob := range p.Channels {
				matches = matches || globbed(glob, job.Channel)
			}
			if !matches || p.Timeout == nil || p.Database != "" && !globbed(p.Database, job.Database) {
				continue
			}
			if p.Function != "" && job.Function == "" {
				break
			}
			if p.Function == "" || globbed(p.Function, job.Function) {
				want = p.Timeout.After
				break
			}
		}
		got := time.Duration(0)
		if p := policy.Compile(policies).Timeout(job); p != nil {
			got = p.Timeout.After
			limitedJobs++
		}
		require.Equal(t, want, got, "%+v %+v", policies, job)
	}
	require.Greater(t, limitedJobs, 1000)
}

// FuzzPolicy: whatever the globs, a policy is refused or can be matched, and one that names a channel
// literally matches it.
func FuzzPolicy(f *testing.F) {
	f.Add("root.export.*", "prod_*", "sale.order.*", "root.export.a", "prod_a")
	f.Add("root", "", "", "root", "")
	f.Add("*[", "a\\", "[^]", "root", "x")
	f.Fuzz(func(t *testing.T, channel, database, function, name, db string) {
		p := limited(1, channel)
		p.Database, p.Function = database, function
		if p.Validate() != nil {
			return
		}
		s := policy.Compile([]policy.Policy{p})
		s.Timeout(policy.Job{Channel: name, Database: db, Function: function})
		if strings.ContainsAny(channel+database+function, `*?[\`) {
			return
		}
		require.NotNil(t, s.Timeout(policy.Job{Channel: channel, Database: database, Function: function}))
	})
}

// TestCovers: a policy that comes after one that matches all of its jobs never counts.
func TestCovers(t *testing.T) {
	of := func(database, function string, channels ...string) policy.Policy {
		return policy.Policy{Channels: channels, Database: database, Function: function}
	}
	for _, c := range []struct {
		first, second policy.Policy
		want          bool
	}{
		{of("", "", "root*"), of("", "", "root*"), true},
		{of("", "", "root*"), of("prod", "sale.*", "root.export.*", "root"), true},
		{of("", "", "*"), of("", "", "root?mail"), true},
		{of("", "", "root.a*", "root.b*"), of("", "", "root.b.*", "root.a"), true},
		{of("", "", "root.[ab]"), of("", "", "root.[ab]"), true},
		{of("prod_*", "", "root"), of("prod_a*", "", "root"), true},
		{of("", "", "root.export.*"), of("", "", "root*"), false},
		{of("", "", "root.a*"), of("", "", "root.a", "root.b"), false},
		{of("prod", "", "root*"), of("", "", "root*"), false},
		{of("", "sale.*", "root*"), of("", "", "root*"), false},
		{of("prod", "", "root*"), of("test", "", "root*"), false},
		{of("", "", "root.?"), of("", "", "root.*"), false},
		{of("", "", "*]"), of("", "", "root.[ab]"), false},
	} {
		require.Equal(t, c.want, c.first.Covers(&c.second), "%s, then %s", &c.first, &c.second)
	}
}

func TestLimit(t *testing.T) {
	of := func(jobs int, per policy.Per, channels ...string) policy.Policy {
		return policy.Policy{Channels: channels, Limit: &policy.Limit{Jobs: jobs, Per: per}}
	}
	for want, p := range map[string]policy.Policy{
		"policy root: limit: the number of jobs is missing":                                                                      of(0, policy.PerDatabase, "root"),
		"policy root: limit must be positive":                                                                                    of(-1, policy.PerDatabase, "root"),
		"policy root: limit: it does not say per what: database or company":                                                      of(1, "", "root"),
		`policy root: limit: "user" is neither database nor company`:                                                             of(1, "user", "root"),
		"policy root function a: function narrows timeout only: what divides":                                                    {Channels: []string{"root"}, Function: "a", Limit: &policy.Limit{Jobs: 1, Per: policy.PerCompany}},
		"policy root: it has no option: give it a timeout, a limit, fair, serialize, a capacity, a rate, a pool or an objective": {Channels: []string{"root"}},
		"policy root: timeout must be positive":                                                                                  {Channels: []string{"root"}, Timeout: &policy.Timeout{After: -1}, Limit: &policy.Limit{Jobs: 1, Per: policy.PerCompany}},
	} {
		require.ErrorContains(t, p.Validate(), want)
	}
	narrow := of(2, policy.PerCompany, "root.*")
	narrow.Database = "prod_*"
	list := []policy.Policy{limited(1, "root.mail"), narrow, of(3, policy.PerDatabase, "root.mail", "root.b")}
	s := policy.Compile(list)
	jobs := func(channel, database string) int {
		if p := s.Limit(channel, database); p != nil {
			return p.Limit.Jobs
		}
		return 0
	}
	require.Equal(t, 2, jobs("root.mail", "prod_a"))
	require.Equal(t, 3, jobs("root.mail", "a"))
	require.Zero(t, jobs("root.c", "a"))
	require.True(t, s.LimitsAny("root.c"), "some database may")
	require.False(t, s.LimitsAny("root"))
	require.True(t, narrow.Companies())
	require.False(t, list[2].Companies())
	require.Len(t, policy.Shares(list), 2)
	var none *policy.Set
	require.Nil(t, none.Limit("root", "a"))
	require.False(t, none.LimitsAny("root"))
}

func TestFair(t *testing.T) {
	p := policy.Policy{Channels: []string{"root"}, Fair: "user"}
	require.ErrorContains(t, p.Validate(), `policy root: fair: "user" is neither database nor company`)
	p.Fair = policy.PerCompany
	require.NoError(t, p.Validate())
	require.True(t, p.Companies())
	p.Database = "prod_*"
	s := policy.Compile([]policy.Policy{limited(1, "root"), p, {Channels: []string{"root*"}, Fair: policy.PerDatabase}})
	require.Equal(t, policy.PerCompany, s.Fair("root", "prod_a").Fair)
	require.Equal(t, policy.PerDatabase, s.Fair("root", "a").Fair)
	require.True(t, s.FairToAny("root.mail"))
	require.False(t, s.LimitsAny("root.mail"))
	require.Nil(t, s.Limit("root", "prod_a"))
}

func TestSerialize(t *testing.T) {
	p := policy.Policy{Channels: []string{"root.a"}, Serialize: "uuid"}
	require.ErrorContains(t, p.Validate(), `policy root.a: serialize: "uuid" is not identity_key`)
	p.Serialize = policy.ByIdentityKey
	require.NoError(t, p.Validate())
	p.Function = "sale.*"
	require.ErrorContains(t, p.Validate(), "function narrows timeout only")
	p.Function = ""
	s := policy.Compile([]policy.Policy{limited(1, "root*"), p})
	require.Equal(t, "policy root.a", s.Serialize("root.a", "prod").String())
	require.Nil(t, s.Serialize("root", "prod"))
	require.Len(t, policy.Shares([]policy.Policy{p}), 1)
}

func TestPool(t *testing.T) {
	p := policy.Policy{Channels: []string{"root.a"}, Pool: &policy.Pool{}}
	require.ErrorContains(t, p.Validate(), "policy root.a: pool: its name is missing")
	p.Pool.Pool = "heavy"
	require.NoError(t, p.Validate())
	s := policy.Compile([]policy.Policy{limited(1, "root*"), p})
	require.Equal(t, "heavy", s.Pool("root.a", "prod").Pool.Pool)
	require.Nil(t, s.Pool("root", "prod"))
}

func TestObjective(t *testing.T) {
	of := func(o policy.Objective, channels ...string) policy.Policy {
		return policy.Policy{Channels: channels, Objective: &o}
	}
	for want, o := range map[string]policy.Objective{
		"policy root: objective: the time that jobs may wait must be positive": {},
		"policy root: objective: 101% is not between 1% and 100%":              {Wait: 1, Percent: 101},
		"policy root: objective: -1% is not between 1% and 100%":               {Wait: 1, Percent: -1},
	} {
		p := of(o, "root")
		require.EqualError(t, p.Validate(), want)
	}
	p := of(policy.Objective{Wait: 1}, "root")
	p.Function = "sale.*"
	require.ErrorContains(t, p.Validate(), "function narrows timeout only")

	mail, whole := of(policy.Objective{Wait: 1, Percent: 90}, "root.mail"), of(policy.Objective{Wait: 2}, "root")
	whole.Database = "prod"
	require.NoError(t, mail.Validate())
	s := policy.Compile([]policy.Policy{mail, whole})
	require.Equal(t, mail.Objective, s.Objective("root.mail.deep", "prod"))
	require.Equal(t, whole.Objective, s.Objective("root.export", "prod"))
	require.Nil(t, s.Objective("root.export", "test"))
	var none *policy.Set
	require.Nil(t, none.Objective("root", "prod"))

	require.False(t, mail.Objective.Missed(1, 10))
	require.True(t, mail.Objective.Missed(2, 10))
	require.False(t, whole.Objective.Missed(0, 10))
	require.True(t, whole.Objective.Missed(1, 1000))
}
