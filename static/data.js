// Datasets: drop a file, watch it go up; the cutoff's slider beside its number. The pages work without it.

import { say, word } from './app.js';

// upload -----------------------------------------------------------------------------------------------------------

const form = document.getElementById('upload');

function send(file) {
  const bar = document.getElementById('sent');
  const text = document.getElementById('drop-text');
  const body = new FormData();
  body.append('name', form.elements.name.value);
  body.append('file', file);
  const request = new XMLHttpRequest();
  request.open('POST', form.action);
  request.setRequestHeader('HX-Request', 'true');
  request.upload.addEventListener('progress', (event) => {
    if (event.lengthComputable) bar.value = event.loaded / event.total;
    text.textContent = word('data.js.sending', file.name, Math.round(100 * bar.value));
  });
  request.addEventListener('load', () => {
    const target = request.getResponseHeader('HX-Redirect');
    if (target) { location.assign(target); return; }
    // refused: the answer is the page with the reason
    window.htmx.swap({ text: request.responseText, sourceElement: form, target: document.getElementById('main'), swap: 'innerMorph' })
      .then(() => { start(); document.getElementById('summary')?.focus(); });
  });
  request.addEventListener('error', () => { text.textContent = word('data.js.lost'); bar.hidden = true; say(word('data.js.lost')); });
  bar.value = 0;
  bar.hidden = false;
  say(word('data.js.sending', file.name, 0));
  request.send(body);
}

function start() {
  const drop = document.getElementById('drop');
  if (!drop) return;
  const text = document.getElementById('drop-text');
  text.textContent = text.dataset.text;
  document.getElementById('sent').hidden = true;
  const input = document.getElementById('f-file');
  input.onchange = () => { if (input.files[0]) send(input.files[0]); };
  // the whole page takes a file: nobody hits a small box
  document.ondragover = (event) => { event.preventDefault(); drop.classList.add('over'); };
  document.ondragleave = (event) => { if (!event.relatedTarget) drop.classList.remove('over'); };
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    const file = event.dataTransfer.files[0];
    if (file) send(file);
  };
}
if (form) start();

// cutoff -----------------------------------------------------------------------------------------------------------

document.addEventListener('input', (event) => {
  const slide = document.getElementById('f-cut-slide');
  const number = document.getElementById('f-cut');
  if (event.target === slide) number.value = slide.value;
  else if (event.target === number && number.value > 0) slide.value = number.value;
}, true);
document.addEventListener('htmx:after:swap', () => {
  // the address follows, so that a reload and a link show the same
  const cutter = document.getElementById('cutter');
  if (!cutter) return;
  const query = new URLSearchParams(new FormData(cutter));
  history.replaceState(null, '', `?${query}`);
});
