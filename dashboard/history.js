'use strict';
// What became of the jobs of the last days, when those that wait will have been started, and what other
// capacities would have meant. It asks only while it is open.
(() => {
  const { $, make, set, hide, number, plural, rows, ask, now, draw: shape } = window.jobrunner;
  const EVERY = 60000; // ms between two questions while it is open
  const SPANS = { '24h': 'last 24 hours', '7d': 'last 7 days', '30d': 'last 30 days' };
  const BY = { function: 'Function', channel: 'Channel', database: 'Database', exception: 'Exception' };
  const plain = text => String(text ?? '').replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]/g, '\ufffd');

  // lasted writes seconds as people do.
  function lasted(s) {
    if (s === undefined || s === null) return '–';
    if (s < 1) return Math.round(s * 1000) + ' ms';
    if (s < 10) return s.toFixed(1) + ' s';
    if (s < 60) return Math.round(s) + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min ' + (Math.round(s) % 60 ? Math.round(s) % 60 + ' s' : '');
    if (s < 172800) return Math.floor(s / 3600) + ' h ' + (Math.floor(s / 60) % 60 ? Math.floor(s / 60) % 60 + ' min' : '');
    return Math.floor(s / 86400) + ' d ' + Math.floor(s / 3600) % 24 + ' h';
  }
  const choice = (id, options) => make('select', { id }, ...Object.entries(options).map(([value, text]) => make('option', { value }, text)));
  const headed = (id, columns) => make('table', { id }, make('thead', {}, make('tr', {}, ...columns.map(([text, cls]) => make('th', { scope: 'col', class: cls }, text)))), make('tbody'));

  const span = choice('past-span', SPANS), by = choice('past-by', BY);
  const csv = make('a', { id: 'past-csv', href: 'past?csv=groups', download: 'history.csv' }, 'as a table (CSV)');
  const note = make('p', { id: 'past-note', class: 'muted', role: 'status' });
  const plot = make('div', { id: 'past-plot', class: 'plot' });
  const groups = headed('past-groups', [['Function'], ['Attempts', 'num'], ['Failed', 'num'], ['Wait p95', 'num'], ['Run median', 'num'], ['Run p95', 'num'], ['Time', 'num']]);
  const coming = headed('past-forecast', [['Channel'], ['Waiting', 'num'], ['Come per hour', 'num'], ['None waits in', 'num']]);
  const comingNote = make('p', { class: 'muted' });
  const legend = make('ul', { class: 'legend', id: 'past-legend' });
  const form = make('form', { id: 'what-if', class: 'fields' },
    make('label', {}, 'Channel ', make('input', { name: 'channel', value: 'root', autocomplete: 'off', spellcheck: 'false', required: true })),
    make('label', {}, 'Capacity ', make('input', { name: 'capacity', type: 'number', min: 1, max: 100000, value: 4, required: true })),
    make('label', {}, 'Jobs of ', choice('what-if-span', { '1h': 'the last hour', '6h': 'the last 6 hours', '24h': 'the last day' })),
    make('button', { type: 'submit' }, 'What if?'));
  const answer = make('div', { id: 'what-if-answer', 'aria-live': 'polite' });
  const details = make('details', { id: 'past' }, make('summary', {}, 'Show'),
    make('div', { class: 'fields' }, make('label', {}, 'Time ', span), make('label', {}, 'By ', by)), note, plot, legend, groups, make('p', {}, csv),
    make('h3', {}, 'When will none wait?'), coming, comingNote,
    make('h3', {}, 'What if a channel had another capacity?'), form, answer);
  const section = make('section', { class: 'card', 'aria-labelledby': 'h-past' }, make('div', { class: 'title' }, make('h2', { id: 'h-past' }, 'History and forecast')), details);
  document.querySelector('.columns').before(section);

  const cells = (tr, texts) => texts.forEach((text, i) => set(tr.cells[i], text));
  function fill(table, items, key, texts) {
    const labels = [...table.tHead.rows[0].cells].map(c => c.textContent);
    rows(table.tBodies[0], items, key, () => make('tr', { role: 'row' }, ...labels.map((label, i) =>
      make('td', { role: 'cell', class: i ? 'num' : false, 'data-label': i ? label : false }))), (tr, item) => cells(tr, texts(item)));
    hide(table, !items.length);
  }

  const w = 600, h = 120;
  function picture(label) {
    const svg = shape('svg', { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label });
    plot.replaceChildren(svg);
    return svg;
  }
  const explain = (...items) => legend.replaceChildren(...items.map(([cls, text]) => make('li', { class: cls }, text)));

  // drawFailures plots how many jobs failed in each interval, with the most frequent exception as the lowest part.
  function drawFailures(doc) {
    const all = doc.exceptions ?? [], svg = picture(`Failures between ${doc.from} and ${doc.to}: ${all.map(e => `${number(e.failed)} with ${plain(e.name) || 'an unknown exception'}`).join(', ') || 'none'}`);
    const at = new Map(doc.intervals.map((p, i) => [p.begin, i])), first = doc.intervals.map(() => 0);
    for (const c of all[0]?.counts ?? []) first[at.get(c.begin)] = c.failed;
    const sums = doc.intervals.map((p, i) => Math.max(p.failed, first[i]));
    const most = Math.max(1, ...sums), wide = w / Math.max(1, sums.length);
    const bar = (i, from, to, opacity) => {
      if (to <= from) return;
      const y = n => h - (h - 4) * n / most;
      svg.append(shape('rect', { x: (i * wide).toFixed(1), width: Math.max(1, wide * .8).toFixed(1), y: y(to).toFixed(1), height: (y(from) - y(to)).toFixed(1), fill: 'var(--bad)', opacity }));
    };
    sums.forEach((n, i) => { bar(i, 0, first[i], 1); bar(i, first[i], n, .45); });
    if (all.length) explain(['s-failed', `${plain(all[0].name) || '(unknown)'}; other exceptions are paler`], ['s-top', `top: ${number(most)} in ${lasted(doc.step_seconds)}`]);
    else explain();
  }

  // draw plots the 95th percentiles of wait and run over time, on a scale of powers.
  function draw(doc) {
    const svg = picture(`Wait and run, 95th percentile, between ${doc.from} and ${doc.to}; in all: wait ${lasted(doc.total.wait_p95_seconds)}, run ${lasted(doc.total.run_p95_seconds)}`);
    const list = doc.intervals, most = Math.max(1, ...list.flatMap(p => [p.wait_p95_seconds ?? 0, p.run_p95_seconds ?? 0]));
    explain(['s-wait', 'wait, p95'], ['s-run', 'run, p95'], ['s-top', `top: ${lasted(most)}, not to scale`]);
    const y = s => h - 4 - (h - 8) * Math.log1p(s * 1000) / Math.log1p(most * 1000);
    for (const [field, cls] of [['wait_p95_seconds', 's-wait'], ['run_p95_seconds', 's-run']]) {
      let d = '', pen = false;
      list.forEach((p, i) => {
        const s = p[field];
        if (s === undefined) { pen = false; return; }
        d += `${pen ? 'L' : 'M'}${(w * (i + .5) / list.length).toFixed(1)} ${y(s).toFixed(1)}` + (pen ? '' : 'h.1');
        pen = true;
      });
      svg.append(shape('path', { d: d || 'M0 0', class: 'line ' + cls, fill: 'none', stroke: cls === 's-wait' ? 'var(--wait)' : 'var(--run)', 'stroke-width': '2', 'vector-effect': 'non-scaling-stroke' }));
    }
  }

  async function past() {
    const params = { runner: now.runner, from: span.value, by: by.value, limit: 20 };
    csv.href = 'past?' + new URLSearchParams({ ...Object.fromEntries(Object.entries(params).filter(([k, v]) => v && k !== 'limit')), csv: by.value === 'exception' ? 'intervals' : 'groups' });
    try {
      const doc = (await ask('past', params)).body;
      set(groups.tHead.rows[0].cells[0], BY[doc.by]);
      fill(groups, doc.groups, g => g.name, g => [plain(g.name) || '(unknown)', number(g.attempts), number(g.failed), lasted(g.wait_p95_seconds),
        lasted(g.run_p50_seconds), lasted(g.run_p95_seconds), lasted(g.run_total_seconds)]);
      const failures = doc.by === 'exception';
      (failures ? drawFailures : draw)(doc);
      const said = [`${plural(doc.total.attempts, 'attempt')} in the ${SPANS[span.value]}; the plot shows ${failures ? 'how many jobs failed' : 'wait and run, 95 of 100'}`];
      groups.classList.toggle('counts', failures);
      if (doc.more) said.push(`${number(doc.more)} more in the table`);
      if (!doc.leader) said.push(`this node stands by, ask the leader: ${plain(doc.leader_detail)}`);
      for (const o of doc.objectives ?? []) if (o.attempts) said.push(`${plain(o.policy)}: ${(100 - 100 * o.late / o.attempts).toFixed(1)} % of ${plural(o.attempts, 'job')} waited no longer than ${lasted(o.wait_seconds)} since this Caddy started, the objective is ${Math.round(100 * o.target)} %${o.burns ? '; it is not kept now' : ''}`);
      if (doc.folded) said.push(`${plural(doc.folded, 'attempt')} under “other”`);
      if (doc.problem) said.push('the file of the history cannot be used now: ' + plain(doc.problem));
      if (doc.put_aside) said.push('a file that could not be used was put aside: ' + plain(doc.put_aside));
      set(note, said.join('. ') + '.');
    } catch (err) {
      set(note, err.message);
    }
  }

  const WORDS = { never: 'never at this rate', unknown: 'not known', empty: 'none waits' };
  function emptyIn(c) {
    if (c.verdict === 'later') return 'not within ' + lasted(c.least_seconds);
    if (c.verdict !== 'drains') return WORDS[c.verdict];
    return lasted(c.empty_in_seconds) + (c.least_seconds === c.most_seconds ? '' : ` (${lasted(c.least_seconds)} to ${lasted(c.most_seconds)})`);
  }
  async function future() {
    try {
      const doc = (await ask('forecast', { runner: now.runner })).body;
      fill(coming, doc.channels, c => c.database + ' ' + c.channel, c => [plain([c.database, c.channel].filter(Boolean).join(', ')), number(c.waiting) + (c.scheduled ? ` and ${number(c.scheduled)} later` : ''), number(Math.round(c.arrivals_per_hour)),
        emptyIn(c)]);
      set(comingNote, doc.channels.length ? 'Assumed: ' + doc.assumes.join('; ') + '.' : 'No job waits.');
    } catch (err) {
      hide(coming, true);
      set(comingNote, err.message);
    }
  }

  let timer = 0;
  async function refresh() {
    clearTimeout(timer);
    if (!details.open || document.hidden) return;
    if (now.runner) await Promise.all([past(), future()]);
    timer = setTimeout(refresh, now.runner ? EVERY : 1000);
  }
  details.addEventListener('toggle', refresh);
  document.addEventListener('visibilitychange', refresh);
  $('runner').addEventListener('change', () => setTimeout(refresh, 0));
  for (const el of [span, by]) el.addEventListener('change', refresh);

  const both = (a, b) => a === b ? a : `${a} → ${b}`;
  form.addEventListener('submit', async event => {
    event.preventDefault();
    answer.replaceChildren(make('p', { class: 'muted' }, 'Replaying …'));
    try {
      const doc = (await ask('simulate', { runner: now.runner, set: `${form.elements.channel.value.trim()}=${form.elements.capacity.value}`, from: $('what-if-span').value })).body;
      const table = headed('what-if-table', [['Channel'], ['Capacity', 'num'], ['Wait median', 'num'], ['Wait p95', 'num'], ['Slots taken', 'num']]);
      const taken = u => u.utilisation === undefined ? u.busy.toFixed(1) : Math.round(100 * u.utilisation) + ' %';
      const slots = n => n || '∞';
      fill(table, doc.channels, c => c.database + ' ' + c.channel, c => [plain([c.database, c.channel].filter(Boolean).join(', ')), both(slots(c.was.capacity), slots(c.would.capacity)),
        both(lasted(c.was.wait_p50_seconds), lasted(c.would.wait_p50_seconds)), both(lasted(c.was.wait_p95_seconds), lasted(c.would.wait_p95_seconds)), both(taken(c.was), taken(c.would))]);
      answer.replaceChildren(table, make('p', { class: 'muted' }, `${plural(doc.jobs, 'job')}: what was → what would have been. Assumed: ${doc.assumes.join('; ')}. Nothing was changed.`));
    } catch (err) {
      answer.replaceChildren(make('p', {}, err.message.charAt(0).toUpperCase() + err.message.slice(1)));
    }
  });
})();
