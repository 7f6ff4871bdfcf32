'use strict';
// The list of all jobs, and one job with all that is known of it. Where the reader is stands in the
// address: #/jobs?state=failed and #/job/<database>/<uuid>.
(() => {
  const { $, make, set, setClass, hide, number, plural, span, since, when, sentence, tag, rows, table, ask, act, now, current, confirmed, toast, refresh } = window.jobrunner;
  const PAGE = 50, PATIENCE = 8000; // jobs of a page, and ms that one is looked for without being asked again
  const FACETS = ['database', 'channel', 'function', 'exception', 'name', 'uuid', 'identity', 'older_than', 'newer_than'];
  const STATES = { wait_dependencies: 'waits for others', pending: 'pending', enqueued: 'enqueued', started: 'started', done: 'done', cancelled: 'cancelled', failed: 'failed' };
  const KINDS = { done: 'good', failed: 'bad', started: 'info', enqueued: 'info', cancelled: 'warn' };
  const ACTIONS = [
    { path: 'requeue', name: 'Requeue', states: ['failed', 'cancelled', 'done'], done: 'requeued', text: 'They become pending again, with counters and dates reset.' },
    { path: 'cancel', name: 'Cancel', states: ['wait_dependencies', 'pending', 'failed'], done: 'cancelled', text: 'They, and the jobs that wait only for them, never run.' },
    { path: 'set-done', name: 'Set done', states: ['wait_dependencies', 'pending', 'failed'], done: 'set done', text: 'They count as done without having run. Jobs that waited only for them become pending.' },
  ];
  // Where the reader is, and how often that has changed: an answer to an earlier question is dropped.
  const here = { kind: '', filter: new URLSearchParams(), turn: 0, database: '', uuid: '' };

  // plain is a text of others without what controls how text is shown.
  const plain = text => String(text ?? '').replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]/g, '\ufffd');
  const name = job => job.model ? plain(job.model) + '.' + plain(job.method) : 'job';
  const withRunner = params => { if ((now.data?.runners.length ?? 0) > 1) params.set('runner', now.runner); return params; };
  const listAt = params => '#/jobs' + (withRunner(params).size ? '?' + params : '');
  const jobAt = (database, uuid) => '#/job/' + encodeURIComponent(database) + '/' + encodeURIComponent(uuid) + (withRunner(new URLSearchParams()).size ? '?' + withRunner(new URLSearchParams()) : '');
  // narrowed is the address of the list with one more condition.
  function narrowed(facet, value) {
    const params = new URLSearchParams(here.filter);
    params.delete('cursor');
    params.set(facet, value);
    return listAt(params);
  }

  // ---- the list

  const states = Object.entries(STATES).map(([state, text]) => make('label', { class: 'choice' }, make('input', { type: 'checkbox', name: 'state', value: state }), ' ' + text));
  $('find-states').append(...states);
  const form = $('find'), field = facet => form.elements[facet];

  function fill() {
    for (const facet of FACETS) field(facet).value = here.filter.get(facet) ?? '';
    const chosen = (here.filter.get('state') ?? '').split(',');
    for (const box of form.querySelectorAll('[name=state]')) box.checked = chosen.includes(box.value);
    $('find-more').open ||= ['name', 'identity', 'older_than', 'newer_than'].some(f => here.filter.get(f));
  }
  function asked() {
    const params = new URLSearchParams();
    for (const facet of FACETS) { const v = field(facet).value.trim(); if (v) params.set(facet, v); }
    const chosen = [...form.querySelectorAll('[name=state]:checked')].map(b => b.value);
    if (chosen.length) params.set('state', chosen.join(','));
    return params;
  }

  // found asks page after page until there are enough jobs, or the time is over.
  async function found(turn) {
    const jobs = [], problems = [], until = Date.now() + PATIENCE;
    let cursor = here.filter.get('cursor') ?? '', left = 0;
    do {
      const page = (await ask('jobs', { ...Object.fromEntries(here.filter), runner: now.runner, cursor, limit: PAGE - jobs.length })).body;
      if (turn !== here.turn) return null;
      jobs.push(...page.jobs);
      problems.push(...page.problems ?? []);
      cursor = page.next ?? '';
      left = page.databases_left ?? 0;
      if (cursor && jobs.length < PAGE) set($('n-jobs'), `${plural(jobs.length, 'job')} so far, ${plural(left, 'database')} still to be searched …`);
    } while (cursor && jobs.length < PAGE && Date.now() < until);
    return { jobs, problems, cursor, left, partial: jobs.length < PAGE && !!cursor };
  }

  async function list() {
    const turn = ++here.turn;
    fill();
    set($('n-jobs'), 'Asking the databases …');
    hide($('no-jobs'), true);
    let page;
    try {
      page = await found(turn);
    } catch (err) {
      if (turn === here.turn) { show([]); set($('n-jobs'), 'That did not work: ' + err.message); hide($('pages'), true); hide($('bulk'), true); }
      return;
    }
    if (!page) return;
    show(page.jobs);
    set($('n-jobs'), [
      page.jobs.length ? plural(page.jobs.length, 'job') + (here.filter.get('cursor') ? ' of a later page' : page.cursor ? ', the newest of each database first' : '') : '',
      page.partial ? `the search is not over: ${plural(page.left, 'database')} left` : '',
      page.problems.length ? 'incomplete: ' + plain(page.problems[0]) + (page.problems.length > 1 ? ` and ${number(page.problems.length - 1)} more` : '') : '',
    ].filter(Boolean).join('; '));
    set($('no-jobs'), page.cursor ? 'No such job has been found so far.' : 'There is no such job.');
    hide($('no-jobs'), page.jobs.length);
    const params = new URLSearchParams(here.filter);
    hide($('first-page'), !params.has('cursor'));
    params.delete('cursor');
    $('first-page').href = listAt(params);
    hide($('next-page'), !page.cursor);
    if (page.cursor) { params.set('cursor', page.cursor); $('next-page').href = listAt(params); }
    set($('next-page'), page.partial ? 'Go on searching' : 'Next page');
    hide($('pages'), $('first-page').hidden && $('next-page').hidden);
    offer();
  }

  function link(td, text, href, title) {
    if (!td.link) td.append(td.link = make('a', {}));
    set(td.link, text);
    hide(td.link, !text);
    td.link.href = href;
    if (td.link.title !== (title ?? '')) td.link.title = title ?? '';
  }
  function show(jobs) {
    table('jobs', jobs, j => j.database + ' ' + j.uuid + ' ' + j.id, [
      ['', '', (td, j) => {
        link(td, name(j), jobAt(j.database, j.uuid));
        td.small ??= td.appendChild(make('small', {}));
        set(td.small, plain(j.uuid).slice(0, 8) + (j.name ? ', ' + plain(j.name) : ''));
      }],
      ['State', '', (td, j) => td.replaceChildren(tag(STATES[j.state] ?? plain(j.state), KINDS[j.state]))],
      ['Channel', '', (td, j) => link(td, plain(j.channel), narrowed('channel', j.channel), 'Only this channel')],
      ['Database', '', (td, j) => link(td, plain(j.database), narrowed('database', j.database), 'Only this database')],
      ['Exception', '', (td, j) => { td.classList.toggle('zero', !j.exception); link(td, plain(j.exception), narrowed('exception', j.exception ?? ''), 'Only this exception'); }],
      ['Attempts', 'num', (td, j) => { td.classList.toggle('zero', !j.retry); set(td, j.retry ? j.retry + (j.max_retries ? ' of ' + j.max_retries : '') : '–'); }],
      ['Created', 'num', (td, j) => { set(td, since(j.created)); td.title = when(j.created); }],
    ]);
  }

  // ---- acting on a filter, or on one job

  // offer shows the actions that are possible for all states of the filter.
  function offer() {
    const chosen = (here.filter.get('state') ?? '').split(',').filter(Boolean);
    const able = here.filter.get('uuid') ? [] : ACTIONS.filter(a => chosen.length && chosen.every(s => a.states.includes(s)));
    hide($('bulk'), !now.actions || here.kind !== 'jobs');
    set($('bulk-note'), able.length ? 'All jobs that this filter selects, on other pages, too:' : 'To act on many jobs at once, choose the states that they are in, and no uuid.');
    rows($('bulk-actions'), able, a => a.path, a => make('button', { type: 'button', class: 'quiet small', click: () => bulk(a) }, a.name + ' …'), () => {});
  }
  const filterOf = () => {
    const { state, older_than, newer_than, database, channel, exception, function: calls, name, identity } = Object.fromEntries(here.filter);
    return { states: state.split(','), ...(older_than && { older_than }), ...(newer_than && { newer_than }), ...(database && { database }), ...(channel && { channel }),
      ...(exception && { exception }), ...(calls && { function: calls }), ...(name && { name }), ...(identity && { identity }) };
  };
  const count = answer => (answer.more || answer.partial ? 'at least ' : '') + plural(answer.changed, 'job');

  async function bulk(action) {
    const filter = filterOf();
    try {
      const preview = (await act(action.path, { runner: now.runner, ...filter, dry_run: true })).body;
      const problems = preview.problems?.length ? ` Not every database could be read: ${plain(preview.problems[0])}.` : '';
      if (!preview.changed && !preview.partial) { toast('No job is selected that this is possible for.' + problems, true); return; }
      const words = [...here.filter].filter(([k]) => k !== 'cursor' && k !== 'runner').map(([k, v]) => `${k.replace('_', ' ')} ${plain(v)}`).join(', ');
      const answer = await confirmed(`${action.name} ${count(preview)}?`, `Selected: ${words}. ${action.text}` +
        (preview.more ? ` One action changes ${number(preview.changed)} at most, the oldest first; repeat it for the others.` : '') +
        (preview.partial ? ' These are those found so far: looking for more took too long. The action looks for all of them.' : '') + problems, action.name, false);
      if (answer) await change(action, { ...filter, note: answer.note });
    } catch (err) {
      toast(`That did not work: ${err.message}`, true);
    }
  }
  async function change(action, body) {
    try {
      const answer = (await act(action.path, { runner: now.runner, ...body })).body;
      toast(`${count(answer)} ${action.done}` + (answer.followed ? `, and ${number(answer.followed)} that depend on them` : '') +
        (answer.problems?.length ? ', but: ' + plain(answer.problems[0]) : ''), !!answer.problems?.length);
    } catch (err) {
      toast(`That did not work: ${err.message}`, true);
    }
    refresh();
    route();
  }

  // ---- one job

  async function detail() {
    const turn = ++here.turn, box = $('record');
    set($('h-record'), 'Job ' + plain(here.uuid).slice(0, 8));
    box.replaceChildren(make('p', { class: 'muted' }, 'Asking …'));
    let said;
    try {
      said = (await ask('job', { runner: now.runner, database: here.database, uuid: here.uuid })).body;
    } catch (err) {
      if (turn === here.turn) box.replaceChildren(make('p', { class: 'text' }, err.message.charAt(0).toUpperCase() + err.message.slice(1)));
      return;
    }
    if (turn !== here.turn) return;
    const job = said.job ?? {}, record = said.record ?? { timeline: [], relatives: [] };
    set($('h-record'), name(job));
    document.title = `${name(job)} – Jobs`;
    const facts = [
      ['State', STATES[job.state] ?? job.state], ['Name', job.name], ['Uuid', said.uuid], ['Database', said.database], ['Channel', said.channel ?? job.channel],
      ['Priority', job.priority], ['Attempts', job.retry ? job.retry + (job.max_retries ? ` of ${job.max_retries}` : '') : ''], ['Odoo server', said.upstream],
      ['Exception', job.exception], ['Message', record.message], ['Ran', record.ran_seconds ? span(record.ran_seconds) : ''],
      ['Identity key', job.identity], ['Company', record.company_id], ['User', record.user_id], ['Worker', record.worker_pid], ['Graph', record.graph], ['But', said.problem],
    ].filter(([, value]) => value !== undefined && value !== '' && value !== null);
    box.replaceChildren(
      make('p', { class: 'text' }, tag(said.why.replaceAll('_', ' '), KINDS[said.why] ?? 'info'), ' ' + plain(sentence(said.text)) + (said.text.endsWith('.') ? '' : '.')),
      ...one(job, said),
      make('dl', { class: 'facts' }, ...facts.flatMap(([k, v]) => [make('dt', {}, k), make('dd', {}, plain(v))])),
      ...record.page ? [make('p', {}, make('a', { href: record.page, rel: 'noreferrer' }, 'Open it in Odoo'))] : [], ...timeline(record.timeline), ...relatives(said.database, record), ...payload(record.payload));
  }

  // one are the buttons of the actions that are possible for a job.
  function one(job, said) {
    const able = now.actions ? ACTIONS.filter(a => a.states.includes(job.state)) : [];
    return able.length ? [make('p', { class: 'acts' }, ...able.map(a => make('button', { type: 'button', class: 'quiet small', click: async () => {
      const answer = await confirmed(`${a.name} this job?`, `${name(job)} ${plain(said.uuid)} in ${plain(said.database)}. ${a.text}`, a.name, false);
      if (answer) change(a, { database: said.database, uuids: [said.uuid], note: answer.note });
    } }, a.name + ' …')))] : [];
  }
  function timeline(list) {
    if (!list.length) return [];
    const words = { eta: 'not before', enqueued: 'sent to Odoo' };
    return [make('h3', {}, 'Timeline'), make('ol', { class: 'timeline' }, ...list.map((m, i) => {
      const gap = i ? (new Date(m.at) - new Date(list[i - 1].at)) / 1000 : 0;
      return make('li', {}, make('b', {}, words[m.what] ?? m.what), ' ', make('time', { datetime: m.at }, new Date(m.at).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium' })),
        make('span', { class: 'muted' }, (gap > 0 ? ` ${span(gap)} later` : '') + (m.upstream ? ` on ${plain(m.upstream)}` : '') + (m.detail ? `: ${plain(m.detail)}` : '')));
    }))];
  }
  function relatives(database, record) {
    const out = [];
    if (record.relatives.length || record.relatives_problem) out.push(make('h3', {}, 'Depends on, and is waited for by'));
    if (record.relatives_problem) out.push(make('p', { class: 'muted' }, sentence(record.relatives_problem) + '.'));
    if (!record.relatives.length) return out;
    const cell = (label, ...children) => make('td', { role: 'cell', 'data-label': label || false }, ...children);
    out.push(make('table', { id: 'relatives' },
      make('thead', {}, make('tr', {}, ...['Job', 'Relation', 'State'].map(h => make('th', { scope: 'col' }, h)))),
      make('tbody', {}, ...record.relatives.map(r => make('tr', { role: 'row' },
        cell('', r.state === 'missing' ? plain(r.uuid) : make('a', { href: jobAt(database, r.uuid) }, name(r)), make('small', {}, plain(r.uuid).slice(0, 8))),
        cell('Relation', r.relation === 'parent' ? 'must be done before' : 'waits for this one'),
        cell('State', tag(STATES[r.state] ?? plain(r.state), KINDS[r.state])))))));
    if (record.more_relatives) out.push(make('p', { class: 'muted' }, `${number(record.more_relatives)} more are not shown.`));
    return out;
  }
  function payload(p) {
    if (!p) return [];
    return [['traceback', 'Traceback'], ['arguments', 'Arguments'], ['keywords', 'Keyword arguments'], ['records', 'Records'], ['result', 'Result']].filter(([k]) => p[k]).map(([k, title]) =>
      make('details', { class: 'payload', id: 'payload-' + k }, make('summary', {}, title + (p[k].bytes ? `, the beginning of ${number(p[k].bytes)} bytes` : '')), make('pre', { tabindex: 0 }, plain(p[k].text))));
  }

  // ---- the slots of a channel

  document.addEventListener('jobrunner-slots', async ev => {
    const { channel, capacity } = ev.detail, dialog = $('slots'), field = $('slots-number');
    try {
      // The configuration is asked first: it may say why that is not possible.
      const before = (await act('capacity', { runner: now.runner, channel, capacity, dry_run: true })).body;
      set($('slots-title'), `Slots of channel ${channel}`);
      set($('slots-text'), `The configuration says ${number(before.before)}. The change is in force at once, without stopping a job, and on this Caddy only, until its configuration is loaded again.`);
      field.value = before.before;
      set($('slots-line'), before.line);
      field.oninput = () => set($('slots-line'), before.line.replace(/\d+$/, field.value));
      $('slots-note').value = '';
      dialog.returnValue = '';
      dialog.showModal();
      await new Promise(resolve => dialog.addEventListener('close', resolve, { once: true }));
      if (dialog.returnValue !== 'ok') return;
      const done = (await act('capacity', { runner: now.runner, channel, capacity: Number(field.value), note: $('slots-note').value })).body;
      toast(`Channel ${channel}: ${plural(done.after, 'job')} at once, ${number(done.before)} before. To keep it: ${done.line}`);
    } catch (err) {
      toast(`That did not work: ${plain(err.message)}`, true);
    }
    refresh();
  });

  // ---- where the reader is

  function route() {
    if (!now.runner) return;
    const [path, query = ''] = location.hash.slice(1).split('?'), parts = path.split('/');
    const params = new URLSearchParams(query), before = here.kind;
    here.kind = parts[1] === 'jobs' || parts[1] === 'job' && parts.length === 4 ? parts[1] : '';
    params.delete('runner');
    here.filter = params;
    document.body.classList.toggle('exploring', !!here.kind);
    hide($('explorer'), here.kind !== 'jobs');
    hide($('detail'), here.kind !== 'job');
    for (const [id, on] of [['to-overview', !here.kind], ['to-jobs', !!here.kind]]) on ? $(id).setAttribute('aria-current', 'page') : $(id).removeAttribute('aria-current');
    document.title = here.kind ? 'All jobs – Jobs' : 'Jobs';
    hide($('bulk'), true);
    if (here.kind === 'jobs') list();
    if (here.kind === 'job') {
      [here.database, here.uuid] = parts.slice(2).map(decodeURIComponent);
      detail();
    }
    if (here.kind && here.kind !== before) scrollTo(0, 0);
    if (here.kind && before) $(here.kind === 'jobs' ? 'h-explorer' : 'h-record').focus({ preventScroll: true });
  }
  function go(hash) { if (location.hash === hash) route(); else location.hash = hash; }
  form.addEventListener('submit', ev => { ev.preventDefault(); go(listAt(asked())); });
  $('find-clear').addEventListener('click', () => go('#/jobs'));
  for (const box of form.querySelectorAll('[name=state]')) box.addEventListener('change', () => go(listAt(asked())));
  addEventListener('hashchange', route);
  document.addEventListener('keydown', ev => {
    if (ev.key !== '/' || ev.ctrlKey || ev.metaKey || ev.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName) || document.querySelector('dialog[open]')) return;
    ev.preventDefault();
    if (here.kind !== 'jobs') location.hash = '#/jobs';
    setTimeout(() => field('uuid').focus());
  });
  // The page knows of runners, and of what is allowed, when it has been answered; then, and with another runner,
  // the question is asked.
  let shown = null;
  document.addEventListener('jobrunner', () => {
    if (shown !== now.runner) { shown = now.runner; route(); return; }
    if (here.kind === 'jobs' && $('bulk').hidden === !!now.actions) offer();
  });
})();
