'use strict';
(() => {
  // How often the page asks, in ms; less often while nobody answers, and never
  // while nobody looks.
  const EVERY = 2000, EVERY_HISTORY = 10000, EVERY_FAILURES = 15000, SLOWEST = 15000, PATIENCE = 12000;
  const SHOWN = 12; // databases, and channels, before one has to filter
  const FEW = 6; // channels, of which even idle ones are shown
  const $ = id => document.getElementById(id);
  const now = { data: null, runner: null, actions: false, at: 0, failures: null, history: null };

  // ---- small things

  // make creates an element. Attributes with a function as value are listeners.
  function make(tag, attrs = {}, ...children) {
    const el = document.createElement(tag);
    for (const [name, value] of Object.entries(attrs)) {
      if (typeof value === 'function') el.addEventListener(name, value);
      else if (value !== undefined && value !== false) el.setAttribute(name, value === true ? '' : value);
    }
    el.append(...children);
    return el;
  }
  const set = (el, text) => { text = String(text ?? ''); if (el.textContent !== text) el.textContent = text; };
  const setClass = (el, name) => { if (el.className !== name) el.className = name; };
  const hide = (el, yes) => { if (el.hidden !== !!yes) el.hidden = !!yes; };
  const number = n => (n ?? 0).toLocaleString('en');
  const plural = (n, one, many = one + 's') => number(n) + ' ' + (n === 1 ? one : many);

  function span(s) { // a time in seconds, for people
    if (s == null) return '–';
    if (s < 0.0995) return Math.max(1, Math.round(s * 1000)) + ' ms';
    if (s < 9.95) return (Math.round(s * 10) / 10) + ' s';
    if (s < 59.5) return Math.round(s) + ' s';
    if (s < 117) return Math.round(s / 6) / 10 + ' min';
    if (s < 7200) return Math.round(s / 60) + ' min';
    if (s < 172800) return Math.round(s / 3600) + ' h';
    return Math.round(s / 86400) + ' d';
  }
  const clock = t => t.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const since = time => time ? span((Date.now() - new Date(time)) / 1000) + ' ago' : '–';
  function when(time) {
    if (!time) return '';
    const t = new Date(time);
    return t.toDateString() === new Date().toDateString() ? clock(t) : t.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
  }
  // sentence is a text of the runner, with times as the reader's clock shows them.
  const sentence = text => text.charAt(0).toUpperCase() + text.slice(1).replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, when);

  // rows keeps the children of a parent in step with items: those that stay are
  // changed in place, so that what has the focus keeps it.
  function rows(parent, items, key, create, update) {
    const old = parent.kept ?? new Map(), kept = new Map();
    let place = parent.firstElementChild;
    for (const item of items) {
      const k = key(item);
      if (kept.has(k)) continue;
      let row = old.get(k);
      if (!row) row = create(item);
      old.delete(k);
      kept.set(k, row);
      row.item = item;
      update(row, item);
      if (row === place) place = place.nextElementSibling;
      else parent.insertBefore(row, place);
    }
    for (const row of old.values()) row.remove();
    parent.kept = kept;
  }

  // table does so for a table body. A column is [label, class, fill(td, item, row)].
  function table(id, items, key, columns) {
    const create = () => make('tr', { role: 'row' }, ...columns.map(([label, cls]) =>
      make('td', { role: 'cell', class: cls, 'data-label': label || false })));
    rows($(id).tBodies[0], items, key, create, (tr, item) =>
      columns.forEach(([, , fill], i) => fill(tr.cells[i], item, tr)));
  }

  // parts makes the named children of an element once.
  function parts(el, build) {
    if (!el.parts) { el.parts = build(); el.append(...Object.values(el.parts)); }
    return el.parts;
  }
  const tag = (text, kind = '') => make('span', { class: 'tag ' + kind }, text);
  // tags replaces what follows the first child by tags, if they have changed.
  function tags(el, list) {
    const key = JSON.stringify(list);
    if (el.tags === key) return;
    el.tags = key;
    while (el.children.length > 1) el.lastElementChild.remove();
    el.append(...list.map(([text, kind]) => tag(text, kind)));
  }

  // ---- asking

  async function ask(path, params) {
    const query = params ? '?' + new URLSearchParams(Object.entries(params).filter(([, v]) => v)) : '';
    return answerOf(await fetch(path + query, { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) }));
  }
  async function act(path, body) {
    return answerOf(await fetch(path, {
      method: 'POST', body: JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE),
      headers: { 'Content-Type': 'application/json', 'X-Jobrunner-Dashboard': '1' },
    }));
  }
  async function answerOf(res) {
    const kind = res.headers.get('Content-Type') ?? '';
    if (!kind.startsWith('application/json')) throw new Error(res.status === 401 || res.redirected
      ? 'the session has ended, reload the page' : `HTTP ${res.status}`);
    const body = await res.json();
    if (!res.ok) throw new Error(body.error ?? `HTTP ${res.status}`);
    return { body, actions: res.headers.get('X-Jobrunner-Actions') === 'true' };
  }

  // repeat calls f again and again while the page is looked at.
  function repeat(f, every) {
    let timer, busy = false, failed = 0;
    const turn = async () => {
      clearTimeout(timer);
      if (busy) return;
      if (!document.hidden) {
        busy = true;
        try { await f(); failed = 0; } catch (err) { failed++; lost(err); }
        busy = false;
      }
      timer = setTimeout(turn, Math.min(every * 2 ** Math.min(failed, 3), Math.max(every, SLOWEST)));
    };
    document.addEventListener('visibilitychange', () => { if (!document.hidden) turn(); });
    turn();
    return turn;
  }

  function lost(err) {
    const text = err.name === 'TimeoutError' ? 'Caddy does not answer in time' :
      err instanceof TypeError ? 'Caddy cannot be reached' : err.message;
    set($('offline'), `No news since ${now.at ? new Date(now.at).toLocaleTimeString() : 'the page was opened'}: ${text}. Trying again.`);
    hide($('offline'), false);
    setClass($('state'), 'pill bad');
    set($('state'), 'No connection');
    document.body.classList.add('stale');
  }

  const refresh = repeat(async () => {
    const { body, actions } = await ask('data');
    now.data = body;
    now.actions = actions;
    now.at = Date.now();
    hide($('offline'), true);
    document.body.classList.remove('stale');
    show();
  }, EVERY);
  const refreshHistory = repeat(async () => {
    if (!now.runner) return;
    now.history = (await ask('history', { runner: now.runner })).body;
    showPlots();
    const r = current();
    if (r && !r.problem) showTiles(r);
  }, EVERY_HISTORY);
  const refreshFailures = repeat(async () => {
    now.failures = (await ask('failures')).body;
    showFailures();
  }, EVERY_FAILURES);

  // ---- showing

  const current = () => now.data?.runners.find(r => r.status.runner === now.runner);

  function show() {
    const names = now.data.runners.map(r => r.status.runner);
    if (!names.includes(now.runner)) {
      // The runner's name, or where in the list of jobs the reader is.
      const wanted = location.hash.startsWith('#/') ? new URLSearchParams(location.hash.split('?')[1]).get('runner') : decodeURIComponent(location.hash.slice(1));
      now.runner = names.includes(wanted) ? wanted : names[0] ?? null;
      now.history = null;
      refreshHistory();
    }
    hide($('runner-choice'), names.length < 2);
    rows($('runner'), names, n => n, n => make('option', { value: n }, n), () => {});
    $('runner').value = now.runner ?? '';
    set($('updated'), new Date(now.at).toLocaleTimeString());
    document.dispatchEvent(new Event('jobrunner'));
    const r = current();
    if (!r) {
      setClass($('state'), 'pill');
      set($('state'), 'No runner is configured');
      return;
    }
    if (r.problem) {
      document.body.classList.add('stale');
      setClass($('state'), 'pill bad');
      set($('state'), 'No answer: ' + r.problem);
      return;
    }
    showState(r);
    showTiles(r);
    showChannels(r);
    showTasks(r);
    showUpstreams(r);
    showDatabases(r);
  }

  function showState(r) {
    const st = r.status;
    const [text, kind] = st.stopping ? ['Stopping', 'warn'] : st.leader && st.state === 'ready' ? ['Running', 'good'] :
      st.leader && st.state === 'degraded' ? ['Degraded', 'warn'] : st.leader ? ['Not ready', 'bad'] : st.leader_known ? ['Standby', 'info'] : ['No leader', 'bad'];
    set($('state'), text);
    setClass($('state'), 'pill ' + kind);
    const problems = [...(st.problems ?? []), ...(st.warnings ?? [])];
    const nodes = !st.leader && st.leader_known ? now.data.nodes ?? [] : [];
    if (!st.leader && st.leader_known) problems.push(`This process stands by and knows of no job. The leader is ${st.leader_detail}` + (nodes.length ? ':' : '.'));
    rows($('nodes'), nodes, n => n, n => make('li', {}, make('a', { href: n }, n)), () => {});
    hide($('nodes'), !nodes.length);
    rows($('problems'), problems, p => p, p => make('li', {}, sentence(p)), () => {});
    hide($('problems'), !problems.length);
    rows($('pauses'), st.pauses, p => [p.scope, p.database, p.channel].join(' '), () => make('li'), (li, p) => {
      const el = parts(li, () => ({
        text: make('span'),
        button: make('button', { class: 'quiet small', click: () => resume(li.item) }, 'Resume'),
      }));
      set(el.text, subject(p) + ' paused' + (p.by ? ' by ' + p.by : '') + (p.since ? ' ' + since(p.since) : '') +
        (p.until ? ', until ' + when(p.until) : '') + (p.note ? ': ' + p.note : ''));
      el.button.setAttribute('aria-label', 'Resume ' + subject(p).toLowerCase());
      hide(el.button, !now.actions);
    });
    hide($('pauses'), !st.pauses.length);
    hide($('pause-all'), !now.actions || st.pauses.some(p => p.scope === 'all'));
  }
  const subject = p => p.scope === 'all' ? 'Everything is' : p.database ? `Database ${p.database} is` : `Channel ${p.channel} is`;

  // count writes a number to which an unknown one may have to be added.
  const count = (n, unknown) => unknown ? (n ? number(n) + ' or more' : 'unknown') : number(n);

  function showTiles(r) {
    const st = r.status, unknown = !!st.databases_with_unknown_jobs;
    const jobs = n => !st.leader && !n ? '–' : count(n, unknown); // only the leader knows of those that wait
    const places = st.database_channels ? st.database_channels.max_capacity : r.channels.find(c => c.channel === 'root')?.capacity;
    const up = st.upstreams.filter(u => u.up && !u.drain).length;
    const h = now.history, last = h ? h.done.length - 1 : 0;
    const sum = (list, n) => list.slice(Math.max(0, last - n), last).reduce((a, b) => a + b, 0);
    const perMinute = h && Math.round(60 / h.step_seconds);
    rows($('tiles'), [
      { name: 'Running', value: jobs(st.jobs.enqueued + st.jobs.started), more: places || st.database_channels ? 'of ' + number(places) : '' },
      { name: 'Waiting', value: jobs(st.jobs.pending) },
      { name: 'Oldest waiting', value: st.oldest_pending_seconds == null ? (unknown ? 'unknown' : '–') : span(st.oldest_pending_seconds) },
      { name: 'Done, last minute', value: h ? number(sum(h.done, perMinute)) : '–' },
      // Not the same: a job that was requeued has failed all the same, and one may fail twice.
      { name: 'Failed now', value: jobs(st.jobs.failed), more: h ? 'last hour: ' + number(sum(h.failed, last) + h.failed[last]) : '' },
      { name: 'Odoo servers up', value: number(up), more: 'of ' + number(st.upstreams.length), alarm: !up },
    ], t => t.name, t => make('div', {}, make('dt', {}, t.name), make('dd', {}, make('span'), ' ', make('small'))), (el, t) => {
      set(el.querySelector('span'), t.value);
      set(el.querySelector('small'), t.more);
      setClass(el, t.alarm ? 'alarm' : '');
    });
  }

  function button(td, name, cls, text, label, click) {
    td.buttons ??= {};
    let b = td.buttons[name];
    if (!b) {
      b = td.buttons[name] = make('button', { type: 'button', class: cls, click });
      td.append(b);
    }
    set(b, text);
    if (b.getAttribute('aria-label') !== label) b.setAttribute('aria-label', label);
    return b;
  }

  // pressing says how much a channel wants to be seen: 0 is an idle one.
  const pressing = c => (c.sequential && c.failed ? 8 : 0) + (c.held ? 4 : 0) + (c.paused ? 2 : 0) + (c.queued || c.running || c.failed ? 1 : 0);

  // chosen returns the channels to show: those that a word is in; or all, if they are few or wanted; or
  // the most pressing. Those above them are shown, too, because they hold them.
  function chosen(all, word, full) {
    if (word) return all.filter(c => full(c).toLowerCase().includes(word)).slice(0, 10 * SHOWN);
    if (now.allChannels || all.length <= FEW) return all;
    const age = c => c.oldest_pending_seconds ?? -1;
    const top = all.filter(pressing).sort((a, b) => pressing(b) - pressing(a) || age(b) - age(a) || b.queued - a.queued || b.running - a.running).slice(0, SHOWN);
    const wanted = new Set();
    for (const c of top) {
      for (let name = c.channel; name; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) wanted.add(full({ ...c, channel: name }));
    }
    return all.filter(c => c.channel === 'root' && !c.database || wanted.has(full(c)));
  }

  function showChannels(r) {
    // With trees of their own, the database's name stands in the place of root.
    const full = c => (c.database ? c.database + ': ' : '') + c.channel;
    const word = $('channel-filter').value.trim().toLowerCase(), many = r.channels.length > SHOWN, some = r.channels.length > FEW;
    const list = chosen(r.channels, word, full), left = r.channels.filter(c => !list.includes(c));
    const busy = left.filter(pressing).length, idle = left.length - busy;
    hide($('channel-filters'), !many);
    hide($('more-channels'), !some || !!word || !now.allChannels && !left.length);
    set($('more-channels'), now.allChannels ? 'Show fewer channels' : 'Show ' + [busy && plural(busy, 'more channel'), idle && plural(idle, 'idle channel')].filter(Boolean).join(' and '));
    $('more-channels').setAttribute('aria-expanded', String(!!now.allChannels));
    set($('n-channels'), [many ? `${number(list.length)} of ${number(r.channels.length)}` : '', r.more_channels ? `${number(r.more_channels)} more are not known to this page` : ''].filter(Boolean).join(', '));
    table('channels', list, full, [
      ['', '', (td, c) => {
        const el = parts(td, () => ({ name: make('div', { class: 'name' }, make('b')) }));
        const depth = c.channel.split('.').length - 1;
        td.style.paddingLeft = depth * 18 + 'px';
        set(el.name.firstChild, depth || !c.database ? c.channel.split('.').pop() : c.database);
        el.name.firstChild.title = full(c);
        const said = [];
        if (c.pause) said.push(['paused', 'info']); else if (c.paused) said.push(['paused by the configuration', 'info']);
        if (c.sequential) said.push(c.failed ? ['stopped by a failed job', 'bad'] : ['one by one', '']);
        if (c.held) said.push([plural(c.held, 'job waits', 'jobs wait') + ' for the database', 'bad']);
        if (c.throttle_seconds) said.push(['every ' + span(c.throttle_seconds), '']);
        if (c.window) said.push([(c.window.capacity ? `at most ${number(c.window.capacity)} at once` : 'nothing starts') + (c.window.until ? ', until ' + when(c.window.until) : ''), 'info']);
        if (c.min) said.push([plural(c.min, 'slot') + ' of its own', '']);
        if (c.capacity_percent) said.push([`${number(c.capacity_percent)} % of the channel above`, '']);
        if (c.passed_by) said.push([plural(c.passed_by, 'job is', 'jobs are') + ' passed by: a policy holds them back', 'info']);
        if (c.capacity_auto) said.push(['as much as the servers bear', '']);
        if (c.rate_waits) said.push([plural(c.rate_waits, 'database waits', 'databases wait') + ' for the rate' + (c.rate_next ? ', next at ' + when(c.rate_next) : ''), 'info']);
        if (c.rate) said.push(c.queued && !c.rate.available ? [`${c.rate.line}, next at ${when(c.rate.next)}`, 'info'] : [c.rate.line, '']);
        tags(el.name, said);
      }],
      ['Running', '', (td, c) => {
        const el = parts(td, () => ({ bar: make('div', { class: 'bar' }, make('div', { class: 'track', 'aria-hidden': 'true' }, make('div', { class: 'fill' })), make('span')) }));
        const limit = c.window ? c.window.capacity : c.capacity, limited = c.window || limit;
        const track = el.bar.firstChild, share = limit ? Math.min(1, c.running / limit) : limited && c.running ? 1 : 0;
        setClass(track, 'track' + (!limited ? ' unlimited' : share === 1 ? ' full' : ''));
        track.firstChild.style.width = share * 100 + '%';
        set(el.bar.lastChild, limited ? `${number(c.running)} of ${number(limit)}` : number(c.running));
      }],
      ['Waiting', 'num', (td, c, tr) => {
        const waits = c.queued + (c.held ?? 0);
        td.classList.toggle('zero', !waits);
        if (!waits) { delete td.buttons; set(td, count(0, c.jobs_unknown)); return; }
        if (!td.buttons) set(td, '');
        button(td, 'list', 'link', count(waits, c.jobs_unknown), `${plural(waits, 'job')} waiting in ${full(c)}: list`, () => waiting(tr.item));
      }],
      ['Oldest', 'num', (td, c) => { td.classList.toggle('zero', c.oldest_pending_seconds == null); set(td, c.oldest_pending_seconds == null ? '–' : span(c.oldest_pending_seconds)); }],
      ['Failed', 'num', (td, c) => { td.classList.toggle('zero', !c.failed); set(td, number(c.failed)); }],
      ['', 'act', (td, c, tr) => {
        const paused = !!c.pause;
        const b = button(td, 'pause', 'quiet small', paused ? 'Resume' : 'Pause', `${paused ? 'Resume' : 'Pause'} channel ${c.channel}` + (c.database ? ' in every database' : ''),
          () => tr.item.pause ? resume(tr.item.pause) : pause({ channel: tr.item.channel }));
        hide(b, !now.actions);
        const slots = button(td, 'slots', 'quiet small', 'Slots', `Change the slots of channel ${c.channel}`, () => document.dispatchEvent(new CustomEvent('jobrunner-slots', { detail: tr.item })));
        hide(slots, !now.actions || !c.configured || !c.capacity || !!c.database || c.sequential || c.capacity_auto || !!c.capacity_percent);
      }],
    ]);
  }

  const what = job => job.model ? `${job.model}.${job.method}` : 'job ' + short(job.uuid);
  const short = uuid => uuid.slice(0, 8);

  function twoLines(td, first, second, title) {
    const el = parts(td, () => ({ first: make('span'), second: make('small', { class: 'mono' }) }));
    set(el.first, first);
    set(el.second, second);
    if (el.second.title !== title) el.second.title = title;
  }

  // How long a job has run, marked if its time limit has come near or has passed.
  function limited(td, t) {
    const stage = t.timeout?.stage, text = t.timeout?.text ?? '';
    set(td, span(t.age_seconds) + (stage ? ', ' + ({ warned: 'near its limit', reached: 'over its limit' }[stage] ?? stage) : ''));
    td.classList.toggle('late', !!stage);
    td.classList.toggle('stuck', stage === 'stuck');
    if (td.title !== text) td.title = text;
  }

  function showTasks(r) {
    const tasks = r.tasks, more = r.more_tasks ?? 0;
    set($('n-tasks'), tasks.length ? plural(tasks.length + more, 'job') + (more ? `, the ${tasks.length} oldest are shown` : '') : '');
    hide($('no-tasks'), tasks.length);
    table('tasks', tasks, t => t.database + ' ' + t.uuid, [
      ['', '', (td, t) => twoLines(td, what(t), short(t.uuid) + (t.retry ? `, attempt ${t.retry + 1}` : ''), t.uuid)],
      ['Channel', '', (td, t) => set(td, t.channel)],
      ['Database', '', (td, t) => set(td, t.database)],
      ['Server', '', (td, t) => set(td, t.upstream ? t.upstream.replace(/^https?:\/\//, '') : { claiming: 'being claimed', watched: 'not ours, watched' }[t.phase] ?? t.phase)],
      ['For', 'num', limited],
      ['', 'act', (td, t, tr) => button(td, 'why', 'quiet small', 'Details', `Details of ${what(t)} ${short(t.uuid)}`, () => explain(tr.item))],
    ]);
  }

  function showFailures() {
    const { groups, problems, per_database, unread } = now.failures;
    const mine = groups.filter(g => g.runner === now.runner || !now.runner);
    hide($('no-failures'), mine.length);
    set($('n-failures'), problems.length ? 'incomplete: ' + problems[0] + (problems.length > 1 ? ` and ${number(problems.length - 1)} more` : '') :
      unread ? plural(unread, 'database is', 'databases are') + ' still to be read' : mine.length ? `among the newest ${per_database} of each database` : '');
    table('failures', mine, g => [g.database, g.exception, g.model, g.method, g.channel].join(' '), [
      ['', '', (td, g) => set(td, g.exception || 'unknown exception')],
      ['Method', '', (td, g) => twoLines(td, g.model ? `${g.model}.${g.method}` : '–', g.channel, '')],
      ['Database', '', (td, g) => set(td, g.database)],
      ['Jobs', 'num', (td, g) => set(td, number(g.count) + (g.count >= per_database ? '+' : ''))],
      ['Last', 'num', (td, g) => { set(td, since(g.last)); td.title = when(g.last); }],
      ['', 'act', (td, g, tr) => button(td, 'why', 'quiet small', 'Newest', `Details of the newest: ${g.exception}`, () => explain({ database: tr.item.database, uuid: tr.item.jobs[0] }))],
    ]);
  }

  // entry fills one item of a list: a head with tags, a line below, a button.
  function entry(li, head, list, sub) {
    const el = parts(li, () => ({ head: make('div', { class: 'head' }, make('span')), sub: make('div', { class: 'sub' }), side: make('div', { class: 'side' }) }));
    set(el.head.firstChild, head);
    tags(el.head, list);
    set(el.sub, sub);
    return el.side;
  }

  function showUpstreams(r) {
    const ups = r.status.upstreams;
    hide($('no-upstreams'), ups.length);
    rows($('upstreams'), ups, u => u.upstream, () => make('li'), (li, u) => {
      const state = u.drain ? (u.safe_to_stop ? ['drained, safe to stop', 'good'] : ['draining', 'info']) : u.up ? ['up', 'good'] : ['down', 'bad'];
      const marks = [state];
      if (u.pool) marks.push(['pool ' + u.pool, '']);
      if (u.up && !u.drain && u.full) marks.push(['full', 'warn']);
      const said = [plural(u.in_flight, 'job') + (u.max_jobs ? ` of ${number(u.max_jobs)}` : '') + ' running'];
      if (u.visitors != null) said.push(plural(u.visitors, 'visitor') + (u.workers ? `, ${plural(u.workers, 'worker')}` : '') + (u.reserve ? `, ${number(u.reserve)} kept for them` : ''));
      if (u.drain?.by) said.push(`drained by ${u.drain.by}`);
      if (u.up && !u.drain && u.full) said.push(u.full);
      if (!u.up && u.reason) said.push(u.reason + (u.until ? `, until ${when(u.until)}` : ''));
      const side = entry(li, u.upstream, marks, said.join(', ') + (u.drain?.note ? ': ' + u.drain.note : ''));
      const b = button(side, 'drain', 'quiet small', u.drain ? 'Undrain' : 'Drain', `${u.drain ? 'Undrain' : 'Drain'} ${u.upstream}`,
        () => li.item.drain ? undrain(li.item) : drain(li.item));
      hide(b, !now.actions);
    });
  }

  const databaseKinds = { ready: 'good', undetected: '', standby: 'info', connecting: 'warn', loading: 'warn', waiting: 'warn', asleep: '', held: 'warn', yielding: 'warn', upgrading: 'warn', neutralized: 'info' };
  function showDatabases(r) {
    const dbs = r.databases, word = $('database-filter').value.trim().toLowerCase();
    hide($('filter'), dbs.length <= SHOWN);
    const trouble = d => (d.state === 'ready' ? (d.pause ? 1 : 0) : d.state === 'undetected' || d.state === 'neutralized' ? -1 : 2);
    const busy = d => d.jobs.started + d.jobs.enqueued + d.jobs.pending;
    const found = dbs.filter(d => !word || d.database.toLowerCase().includes(word) || d.state.includes(word))
      .sort((a, b) => trouble(b) - trouble(a) || busy(b) - busy(a) || a.database.localeCompare(b.database));
    const left = found.length - SHOWN + (r.more_databases ?? 0);
    set($('n-databases'), Object.entries(r.status.databases).sort().map(([s, n]) => `${number(n)} ${s}`).join(', ') + (left > 0 ? `; ${number(left)} are not shown` : ''));
    hide($('no-databases'), dbs.length);
    rows($('databases'), found.slice(0, SHOWN), d => d.database, () => make('li'), (li, d) => {
      const list = [[d.state, databaseKinds[d.state] ?? 'bad']];
      if (d.pause) list.push(['paused', 'info']);
      const counts = d.state === 'undetected' ? (d.description || 'no queue_job') :
        d.jobs_unknown ? 'how many jobs wait is unknown' :
          `${number(d.jobs.started + d.jobs.enqueued)} running, ${number(d.jobs.pending)} waiting, ${number(d.jobs.failed)} failed`;
      const side = entry(li, d.database, list, ((d.cause || d.detail) && d.state !== 'undetected' ? sentence(d.cause || d.detail) + '; ' : '') + counts + (d.heard_age_seconds > 60 ? `; last heard ${span(d.heard_age_seconds)} ago` : ''));
      const b = button(side, 'pause', 'quiet small', d.pause ? 'Resume' : 'Pause', `${d.pause ? 'Resume' : 'Pause'} database ${d.database}`,
        () => li.item.pause ? resume(li.item.pause) : pause({ database: li.item.database }));
      hide(b, !now.actions || d.state === 'undetected');
    });
    rows($('database-names'), dbs, d => d.database, d => make('option', { value: d.database }), () => {});
    if (!$('why-database').value && dbs.filter(d => d.state !== 'undetected').length === 1) $('why-database').value = dbs.find(d => d.state !== 'undetected').database;
  }

  // ---- plots

  const SVG = 'http://www.w3.org/2000/svg';
  function draw(tag, attrs, text) {
    const el = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attrs)) el.setAttribute(name, value);
    if (text !== undefined) el.textContent = text;
    return el;
  }

  // plot draws lines over time. A line is {name, cls, values, area}; a value that
  // is null is a gap. scale is 'linear' from 0, or 'log'.
  function plot(id, h, lines, scale, format) {
    const box = $(id), w = box.clientWidth, height = box.clientHeight;
    if (!w) return;
    const left = 46, right = 8, top = 8, bottom = 22, step = h.step_seconds, end = new Date(h.end) / 1000 - step;
    const first = Math.max(end - 3600 + step, Math.min(new Date(h.known) / 1000, end - 600));
    const n = h.done.length - 1; // the last one is not over
    const time = i => end - (n - 1 - i) * step - step / 2;
    const from = Math.max(0, n - Math.ceil((end - first) / step));
    const seen = lines.flatMap(l => l.values.slice(from, n)).filter(v => v != null && (scale === 'linear' || v > 0));
    const x = t => left + (t - first) / (end - first) * (w - left - right);
    let lo = 0, hi = 1, ticks;
    if (scale === 'linear') {
      const peak = Math.max(1, ...seen), unit = 10 ** Math.floor(Math.log10(peak));
      hi = [1, 2, 3, 4, 6, 8, 10].map(m => m * unit).find(m => m >= peak);
      ticks = [0, hi / 2, hi];
    } else {
      const all = [.001, .01, .1, 1, 10, 60, 600, 3600, 36000, 360000];
      lo = all.findLast(t => t <= Math.min(.1, ...seen)) ?? .001;
      hi = all.find(t => t >= Math.max(1, ...seen)) ?? 360000;
      ticks = all.filter(t => t >= lo && t <= hi);
    }
    const part = v => scale === 'linear' ? v / hi : Math.log(Math.max(v, lo) / lo) / Math.log(hi / lo);
    const y = v => height - bottom - part(v) * (height - top - bottom);
    const svg = draw('svg', { role: 'img', tabindex: 0, 'aria-label': summary(lines, n, format, h) });
    for (const t of ticks) {
      svg.append(draw('line', { class: 'grid', x1: left, x2: w - right, y1: y(t), y2: y(t) }),
        draw('text', { x: left - 7, y: y(t) + 4, 'text-anchor': 'end' }, format(t, true)));
    }
    // As many labels as have room beside each other.
    const room = Math.max(1, Math.floor((w - left - right) / 76));
    const every = [60, 120, 300, 600, 900, 1200, 1800, 3600].find(s => (end - first) / s <= room) ?? 3600;
    for (let t = Math.ceil(first / every) * every; t <= end; t += every) {
      if (x(t) > left + 26 && x(t) < w - right - 24) svg.append(draw('text', { x: x(t), y: height - 5, 'text-anchor': 'middle' }, clock(new Date(t * 1000))));
    }
    for (const l of lines) {
      let d = '', pen = false, begin = 0;
      let area = '';
      const dots = [];
      for (let i = from; i < n; i++) {
        const v = l.values[i];
        if (v == null) { pen = false; continue; }
        const px = x(time(i)).toFixed(1), py = y(v).toFixed(1);
        if (!pen) begin = px;
        d += `${pen ? 'L' : 'M'}${px} ${py}`;
        // A line needs two points: one without neighbours is a dot.
        if (!pen && (i + 1 >= n || l.values[i + 1] == null)) dots.push([px, py]);
        area += `${pen ? 'L' : `M${begin} ${y(0)}L`}${px} ${py}`;
        if (l.area && i === n - 1) area += `L${px} ${y(0)}Z`;
        pen = true;
      }
      if (l.area && area.endsWith('Z')) svg.append(draw('path', { class: 'area', d: area }));
      if (d) svg.append(draw('path', { class: l.cls, d }));
      for (const [cx, cy] of dots) svg.append(draw('circle', { class: l.cls, cx, cy, r: 2.6 }));
    }
    if (!seen.some(v => v > 0)) svg.append(draw('text', { class: 'note', x: left + (w - left - right) / 2, y: height / 2, 'text-anchor': 'middle' }, h.done[n] || h.failed[n] ? 'What happens now is drawn in a moment' : 'Nothing has happened yet'));
    const cross = svg.appendChild(draw('line', { class: 'cross', y1: top, y2: height - bottom, x1: -9, x2: -9 }));
    const point = i => {
      i = Math.max(from, Math.min(n - 1, i));
      cross.setAttribute('x1', x(time(i)));
      cross.setAttribute('x2', x(time(i)));
      svg.at = i;
      set($('read-' + id), clock(new Date(time(i) * 1000)) + '  ' + lines.filter(l => l.values[i] != null).map(l => `${l.name} ${format(l.values[i])}`).join(', '));
    };
    const away = () => { cross.setAttribute('x1', -9); cross.setAttribute('x2', -9); set($('read-' + id), ''); };
    svg.addEventListener('pointermove', ev => point(Math.round((first + (ev.offsetX - left) / (w - left - right) * (end - first) - time(0)) / step)));
    svg.addEventListener('pointerleave', away);
    svg.addEventListener('blur', away);
    svg.addEventListener('keydown', ev => {
      const to = { ArrowLeft: (svg.at ?? n) - 1, ArrowRight: (svg.at ?? n - 2) + 1, Home: from, End: n - 1 }[ev.key];
      if (to === undefined) return;
      ev.preventDefault();
      point(to);
    });
    const focused = box.firstChild === document.activeElement, at = box.firstChild?.at;
    box.replaceChildren(svg);
    if (focused) { svg.focus(); if (at !== undefined) point(at); }
  }
  function summary(lines, n, format, h) {
    const parts = lines.map(l => { const v = l.values.slice(0, n).findLast(v => v != null); return v == null ? '' : `${l.name} ${format(v)}`; });
    return 'The last hour. Newest values: ' + (parts.filter(Boolean).join(', ') || 'none') + '. Arrow keys read the others.';
  }

  function showPlots() {
    const h = now.history;
    if (!h) return;
    const rate = list => list.map(v => v * 60 / h.step_seconds);
    plot('throughput', h, [
      { name: 'done', cls: 'c-done', values: rate(h.done), area: true },
      { name: 'put back', cls: 'c-back', values: rate(h.put_back) },
      { name: 'failed', cls: 'c-failed', values: rate(h.failed) },
    ], 'linear', (v, axis) => number(Math.round(v * 10) / 10) + (axis ? '' : ' per min'));
    plot('latency', h, [
      { name: 'p95 wait', cls: 'c-wait dashed', values: h.wait_p95_seconds },
      { name: 'median wait', cls: 'c-wait', values: h.wait_p50_seconds },
      { name: 'p95 run', cls: 'c-run dashed', values: h.run_p95_seconds },
      { name: 'median run', cls: 'c-run', values: h.run_p50_seconds },
    ], 'log', span);
  }
  new ResizeObserver(() => showPlots()).observe($('throughput'));

  // ---- acting

  function toast(text, failed) {
    const el = $('toast');
    setClass(el, failed ? 'failed' : '');
    set(el, text);
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => set(el, ''), failed ? 12000 : 4000);
  }
  async function doing(path, body, done) {
    try {
      const { body: answer } = await act(path, { runner: now.runner, ...body });
      toast(answer.warning ? `${done}, but: ${answer.warning}` : done, !!answer.warning);
    } catch (err) {
      toast(`That did not work: ${err.message}`, true);
    }
    refresh();
  }

  // confirmed opens the dialog and resolves to {note, duration}, or to null.
  function confirmed(title, text, ok, withDuration) {
    const dialog = $('ask');
    set($('ask-title'), title);
    set($('ask-text'), text);
    set($('ask-ok'), ok);
    hide($('ask-for'), !withDuration);
    $('ask-note').value = '';
    $('ask-duration').value = '';
    dialog.returnValue = '';
    dialog.showModal();
    return new Promise(resolve => dialog.addEventListener('close', () => resolve(
      dialog.returnValue === 'ok' ? { note: $('ask-note').value, duration: $('ask-duration').value } : null), { once: true }));
  }
  async function pause(what) {
    const name = what.channel ? `channel ${what.channel}` : what.database ? `database ${what.database}` : 'everything';
    const text = 'Running jobs go on, no new one is started' + (what.channel ? ' in it and below it' + (current()?.status.database_channels ? ', in every database.' : '.') : '.');
    const answer = await confirmed(`Pause ${name}?`, text, 'Pause', true);
    if (!answer) return;
    const body = { ...what, note: answer.note };
    if (answer.duration) body.for = answer.duration;
    await doing('pause', body, `Paused ${name}`);
  }
  const resume = p => doing('resume', p.scope === 'all' ? { all: true } : p.database ? { database: p.database } : { channel: p.channel },
    'Resumed ' + (p.scope === 'all' ? 'everything' : p.database || p.channel));
  async function drain(u) {
    const answer = await confirmed(`Drain ${u.upstream}?`, 'It gets no new jobs. It may be stopped when none runs there any more.', 'Drain', false);
    if (answer) await doing('drain', { upstream: u.upstream, note: answer.note }, `Draining ${u.upstream}`);
  }
  const undrain = u => doing('undrain', { upstream: u.upstream }, `${u.upstream} gets jobs again`);

  // ---- asking why

  async function explain(job) {
    $('waiting').close();
    $('why-database').value = job.database;
    $('why-uuid').value = job.uuid;
    const box = $('answer');
    box.replaceChildren('Asking …');
    hide(box, false);
    try {
      const said = (await ask('why', { runner: now.runner, database: job.database, uuid: job.uuid })).body;
      $('why-database').value = said.database;
      $('why-uuid').value = said.uuid;
      showWhy(said);
    } catch (err) {
      box.replaceChildren(make('p', { class: 'text' }, err.message.charAt(0).toUpperCase() + err.message.slice(1)));
    }
    box.focus({ preventScroll: true });
    $('h-why').scrollIntoView({ block: 'center', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  }
  function showWhy(w) {
    const job = w.job ?? {};
    const facts = [
      ['Job', job.model ? `${job.model}.${job.method}` : ''], ['State', job.state],
      ['Channel', w.channel ?? job.channel], ['Slots', w.capacity ? `${number(w.running)} of ${number(w.capacity)} taken` : ''],
      ['Before it', w.ahead ? plural(w.ahead, 'job') + (w.ahead_at_least ? ' or more' : '') : ''],
      ['Waits for', w.blocker], ['Until', when(w.until)], ['Odoo server', w.upstream], ['Running since', when(w.since)],
      ['Priority', job.priority], ['Attempts', job.retry ? `${job.retry}` + (job.max_retries ? ` of ${job.max_retries}` : '') : ''],
      ['Exception', job.exception], ['Created', when(job.created)], ['Not before', when(job.eta)], ['But', w.problem],
    ].filter(([, value]) => value !== undefined && value !== '' && value !== null);
    $('answer').replaceChildren(
      tag(w.why.replaceAll('_', ' '), w.why === 'running' || w.why === 'done' ? 'good' : w.why === 'failed' || w.why === 'timeout_stuck' ? 'bad' : 'info'),
      make('p', { class: 'text' }, sentence(w.text) + (w.text.endsWith('.') ? '' : '.')),
      make('dl', {}, ...facts.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, String(value))])),
      make('p', {}, make('a', { href: '#/job/' + encodeURIComponent(w.database) + '/' + encodeURIComponent(w.uuid) }, 'All that is known of it')));
  }

  async function waiting(c) {
    set($('waiting-title'), 'Waiting in ' + (c.database ? c.database + ': ' : '') + c.channel);
    set($('waiting-note'), 'Asking the databases …');
    rows($('waiting-jobs'), [], j => j.uuid, () => {}, () => {});
    if (!$('waiting').open) $('waiting').showModal();
    try {
      const { jobs, more, problems } = (await ask('waiting', { runner: now.runner, channel: c.channel, ...(c.database && { database: c.database }) })).body;
      set($('waiting-note'), (jobs.length ? (more ? `The newest ${jobs.length}.` : '') : 'None that names this channel: jobs of channels below can wait here for a slot.') + (problems ? ' Incomplete: ' + problems[0] : ''));
      rows($('waiting-jobs'), jobs, j => j.database + ' ' + j.uuid, () => make('li'), (li, j) => {
        const side = entry(li, what(j), j.state === 'pending' ? [] : [['waits for others', '']], `${short(j.uuid)} in ${j.database}, created ${since(j.created)}, priority ${j.priority}`);
        button(side, 'why', 'quiet small', 'Why?', `Why does ${short(j.uuid)} not run`, () => explain(li.item));
      });
    } catch (err) {
      set($('waiting-note'), 'That did not work: ' + err.message);
    }
  }

  $('why').addEventListener('submit', ev => {
    ev.preventDefault();
    explain({ database: $('why-database').value.trim(), uuid: $('why-uuid').value.trim() });
  });
  $('pause-all').addEventListener('click', () => pause({ all: true }));
  $('channel-filter').addEventListener('input', () => { const r = current(); if (r) showChannels(r); });
  $('more-channels').addEventListener('click', () => { now.allChannels = !now.allChannels; const r = current(); if (r) showChannels(r); });
  $('database-filter').addEventListener('input', () => { const r = current(); if (r) showDatabases(r); });
  $('runner').addEventListener('change', ev => {
    now.runner = ev.target.value;
    now.history = null;
    history.replaceState(null, '', (location.hash.startsWith('#/') ? '#/jobs?runner=' : '#') + encodeURIComponent(now.runner));
    show();
    refreshHistory();
    if (now.failures) showFailures();
  });

  // What the other scripts of the page use.
  window.jobrunner = { $, make, set, setClass, hide, number, plural, span, since, when, sentence, tag, rows, table, ask, act, now, current, confirmed, toast, refresh, draw };
})();
