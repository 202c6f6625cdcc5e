// The order of the queue: by drag, or with Alt and the arrow keys anywhere in a row. The buttons work without this.

import { base, say, word } from './app.js';

const queue = document.getElementById('queue');

async function move(id, where) {
  const body = new URLSearchParams(where);
  const answer = await fetch(`${base}/queue/${id}/move`, { method: 'POST', body, headers: { 'HX-Request': 'true' } });
  if (!answer.ok) return;
  const focused = document.activeElement?.id;
  await window.htmx.swap({ text: await answer.text(), sourceElement: queue, target: queue, swap: 'innerMorph' });
  if (focused) document.getElementById(focused)?.focus();
  const row = document.getElementById(`q-${id}`);
  if (row) say(word('queue.moved', row.querySelector('.place').textContent));
}

queue.addEventListener('keydown', (event) => {
  const row = event.target.closest('[data-id]');
  const to = { ArrowUp: 'up', ArrowDown: 'down', Home: 'first', End: 'last' }[event.key];
  if (!row || !to || !event.altKey) return;
  event.preventDefault();
  move(row.dataset.id, { to });
});

let dragged = null;

function mark(row, over) {
  for (const one of queue.querySelectorAll('.drop')) one.classList.remove('drop');
  if (row && over) row.classList.add('drop');
}

queue.addEventListener('dragstart', (event) => {
  dragged = event.target.closest?.('[data-id]');
  if (!dragged) return;
  queue.dataset.busy = 'yes'; // the list must not be replaced in the hand
  dragged.classList.add('dragged');
  event.dataTransfer.effectAllowed = 'move';
  event.dataTransfer.setData('text/plain', dragged.dataset.id);
});
queue.addEventListener('dragover', (event) => {
  const row = event.target.closest('#waiting [data-id]');
  if (!dragged || !row) return;
  event.preventDefault();
  mark(row, row !== dragged);
});
queue.addEventListener('drop', (event) => {
  const row = event.target.closest('#waiting [data-id]');
  if (!dragged || !row || row === dragged) return;
  event.preventDefault();
  const rows = [...queue.querySelectorAll('#waiting [data-id]')];
  // dropped on a row below: it goes behind it, as one sees it go
  const below = rows.indexOf(row) > rows.indexOf(dragged);
  const before = below ? rows[rows.indexOf(row) + 1] : row;
  move(dragged.dataset.id, before ? { before: before.dataset.id } : { to: 'last' });
});
queue.addEventListener('dragend', () => {
  dragged?.classList.remove('dragged');
  dragged = null;
  mark(null);
  delete queue.dataset.busy;
});
