// The New run form: shows a field's error once it was touched, counts what differs from the defaults.
// The server's answer (parts/check.html) lists every error; this puts each one beside its field.
// A preset, the YAML or the command bring a new form: nothing here holds on to the old one.

import { word } from './app.js';

const form = () => document.getElementById('new');

function valueOf(field) {
  const inputs = [...field.querySelectorAll('input:not([type=hidden]), select')];
  const box = inputs.find((input) => input.type === 'checkbox');
  if (box) return String(box.checked);
  const radio = inputs.find((input) => input.type === 'radio' && input.checked);
  return (radio ?? inputs[0]).value.trim();
}

function paintChanged() {
  let hidden = 0;
  for (const group of form().querySelectorAll('.group')) {
    let here = 0;
    for (const field of group.querySelectorAll('.field')) here += field.classList.contains('changed');
    group.querySelector('[data-count]').textContent = here || '';
    hidden += here;
  }
  const line = document.getElementById('changed');
  line.textContent = line.dataset.text.replace('{0}', hidden);
}

function touch(event) {
  const field = event.target.closest('#new .field');
  if (!field) return;
  field.classList.add('touched');
  const value = valueOf(field);
  field.classList.toggle('changed', value !== field.dataset.default && (value !== '' || 'optional' in field.dataset));
  paintChanged();
}

function paintErrors() {
  const errors = new Map();
  for (const item of document.querySelectorAll('#problems li')) {
    errors.set(item.dataset.field, item.querySelector('span').textContent);
  }
  for (const field of form().querySelectorAll('.field')) {
    const error = field.classList.contains('touched') ? errors.get(field.dataset.field) ?? '' : '';
    const line = field.querySelector('.field-error');
    if (line.textContent !== error) line.textContent = error;
    for (const input of field.querySelectorAll('.input, input[type=checkbox]')) {
      if (error) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    }
  }
}

document.addEventListener('input', touch);
document.addEventListener('change', touch);
document.addEventListener('focusout', (event) => {
  const field = event.target.closest?.('#new .field');
  if (field) { field.classList.add('touched'); paintErrors(); }
});

// a new form takes the focus away: the element of the same id gets it back
let focused = '';
document.addEventListener('focusin', (event) => { focused = event.target.id; });
document.addEventListener('htmx:after:swap', () => {
  if (!form()) return;
  paintErrors();
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
});

// a link to a field inside a folded group opens it
function reveal(hash) {
  const target = hash.length > 1 && document.getElementById(hash.slice(1));
  if (!target) return;
  const group = target.closest('details');
  if (group) group.open = true;
  target.focus();
}
document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href^="#f-"]');
  if (!link) return;
  event.preventDefault();
  reveal(link.getAttribute('href'));
});
reveal(location.hash);
document.addEventListener('submit', (event) => {
  if (event.target === form() && event.submitter?.id === 'start') event.submitter.textContent = word('new.starting');
});
